"""What is to be measured: one readout of one encoder each."""

from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.transfer.encoders import ENCODERS, FINE_TUNED_ENCODERS
from benchmarks.transfer.frozen import read_out
from benchmarks.transfer.networks import TASKS
from benchmarks.transfer.readouts import fine_tuned, held_out, labelled, prepared
from benchmarks.transfer.scores import score
from benchmarks.transfer.settings import Settings
from benchmarks.transfer.tuning import predict

FROZEN, FINE_TUNED = "frozen", "fine-tuned"


class Job(NamedTuple):
    """One readout of one encoder."""

    encoder: str
    """Of ENCODERS."""
    method: str
    task: str
    percent: float
    """Of the labels."""
    seed: int
    """Of the labelled images, of the head and of the order; all encoders are paired by it."""


def all_jobs(settings: Settings) -> list[Job]:
    """Every encoder frozen, some also fine-tuned."""
    arms = [(encoder, FROZEN) for encoder in ENCODERS] + [(encoder, FINE_TUNED) for encoder in FINE_TUNED_ENCODERS]
    return [
        Job(encoder, method, task, percent, seed)
        for seed in range(settings.seeds)
        for encoder, method in arms
        for task in TASKS
        for percent in settings.percents
    ]


def run_job(job: Job, factor: float, settings: Settings) -> dict[str, float]:
    """The numbers of one job on the test part.

    The labelled images are the seed's own; a smaller share of them is the beginning of a larger. The weights that
    fine-tuning leaves, the thresholds and the regularisation of a linear readout are those best on the validation part.
    """
    if job.method == FROZEN:
        frozen = prepared(job.encoder, job.task, job.seed, settings)
        return read_out(frozen.network, labelled(job.seed, job.percent, settings), frozen.valid, frozen.test)
    network, verdict = fine_tuned(job.encoder, job.task, job.percent, job.seed, factor, settings)
    _, test = held_out(settings)
    return score(job.task, predict(network, test.images), test, verdict.thresholds)


def arms(jobs: Sequence[Job]) -> list[tuple[str, str]]:
    """(encoder, method) of some jobs, each once, in their order."""
    return list(dict.fromkeys((job.encoder, job.method) for job in jobs))
