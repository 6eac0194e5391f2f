"""What is to be measured, one line of results each; results that are there already are not computed again."""

import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.transfer.frozen import Seen, read_out, see
from benchmarks.transfer.networks import CLASSIFICATION, SEGMENTATION, Network, build_network
from benchmarks.transfer.phantoms import Phantoms, draw_phantoms
from benchmarks.transfer.pretraining import VARIANTS, WHOLE, pretrain
from benchmarks.transfer.scores import best_thresholds, score
from benchmarks.transfer.settings import Settings
from benchmarks.transfer.tuning import fit, predict, steps_of
from utils.seeding import seed_of

RESULTS = "results.jsonl"
RANDOM = "random"
FROZEN, FINE_TUNED = "frozen", "fine-tuned"
TASKS = (CLASSIFICATION, SEGMENTATION)
CALIBRATION = 256


@lru_cache(maxsize=8)
def drawn(count: int, size: int, *purpose: int | str) -> Phantoms:
    """Phantoms, kept for the next job: drawing them takes longer than a linear readout."""
    return draw_phantoms(count, size, *purpose)


class Job(NamedTuple):
    """One readout of one encoder."""

    encoder: str
    """RANDOM or of VARIANTS."""
    method: str
    task: str
    percent: float
    """Of the labels."""
    seed: int
    """Of the labelled images, of the head and of the order; all encoders are paired by it."""


def all_jobs(settings: Settings) -> list[Job]:
    """Every encoder frozen; the whole method's and the random one, which is training from scratch, also fine-tuned."""
    arms = [(encoder, FROZEN) for encoder in (RANDOM, *VARIANTS)] + [(e, FINE_TUNED) for e in (RANDOM, WHOLE)]
    return [
        Job(encoder, method, task, percent, seed)
        for seed in range(settings.seeds)
        for encoder, method in arms
        for task in TASKS
        for percent in settings.percents
    ]


def read_results(out: Path) -> dict[Job, dict[str, float]]:
    """What was measured so far; a last line that was cut short is left out."""
    found = {}
    file = out / RESULTS
    for line in file.read_text("utf-8").splitlines() if file.exists() else ():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[Job(**entry["job"])] = entry["numbers"]
    return found


def run_job(job: Job, settings: Settings) -> dict[str, float]:
    """The numbers of one job on the test part.

    The labelled images are the seed's own; a smaller share of them is the beginning of a larger. The weights that
    fine-tuning leaves, and the regularisation of a linear readout, are those best on the validation part.
    """
    count = max(2, round(settings.labels * job.percent / 100))
    # All of them are drawn: the next job wants more.
    train = drawn(settings.labels, settings.size, "labelled", job.seed).take(slice(count)).to(settings.torch_device)
    if job.method == FROZEN:
        frozen = prepared(job.encoder, job.task, job.seed, settings)
        return read_out(frozen.network, train, frozen.valid, frozen.test)
    network, seed = network_of(job.encoder, job.task, job.seed, settings), seed_of("transfer", job.seed, job.task)
    valid, test = held_out(settings)
    fit(network, train, valid, steps=steps_of(job.task, count, settings), seed=seed)
    outputs, thresholds = predict(network, test.images), None
    if job.task == SEGMENTATION:
        # Chosen as a linear readout's are: after a few steps a region's level may be off where its shape is right.
        outputs, thresholds = outputs.sigmoid(), best_thresholds(predict(network, valid.images).sigmoid(), valid)
    return score(job.task, outputs, test, thresholds)


def held_out(settings: Settings) -> tuple[Phantoms, Phantoms]:
    """The validation and the test part, the same for every job."""
    device = settings.torch_device
    valid, test = drawn(settings.valid, settings.size, "validation"), drawn(settings.test, settings.size, "test")
    return valid.to(device), test.to(device)


def network_of(encoder: str, task: str, seed: int, settings: Settings) -> Network:
    """A task's network on an encoder, a pre-trained or a random one."""
    file = None if encoder == RANDOM else pretrain(encoder, seed % settings.replicates, settings)
    unlabelled = drawn(min(CALIBRATION, settings.images), settings.size, "unlabelled").images
    return build_network(task, file, unlabelled.to(settings.torch_device), seed)


class Frozen(NamedTuple):
    """A network that is left as it is, and what it sees in the held-out parts."""

    network: Network
    valid: Seen
    test: Seen


@lru_cache(maxsize=1)
def prepared(encoder: str, task: str, seed: int, settings: Settings) -> Frozen:
    """Kept for the next job, which differs in the number of labels."""
    network = network_of(encoder, task, seed, settings)
    return Frozen(network, *(see(network, part) for part in held_out(settings)))


def run_all(settings: Settings, workers: int) -> dict[Job, dict[str, float]]:
    """Pre-train, then do the jobs that are left, some side by side; each result is kept when it is there."""
    settings.out.mkdir(parents=True, exist_ok=True)
    done = read_results(settings.out)
    left = [job for job in all_jobs(settings) if job not in done]
    pairs = [(v, r) for v in VARIANTS for r in range(settings.replicates)]
    # Its own processes, each with one thread: started, not forked, since torch has threads already.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=torch.set_num_threads,
                             initargs=(1,)) as pool:  # fmt: skip
        list(pool.map(pretrain, *zip(*pairs, strict=True), [settings] * len(pairs)))
        # Jobs that differ in the number of labels alone go to the same process.
        numbers_of = pool.map(run_job, left, [settings] * len(left), chunksize=len(settings.percents))
        for job, numbers in zip(left, numbers_of, strict=True):
            keep(settings.out, job, numbers)
            done[job] = numbers
    return done


def keep(out: Path, job: Job, numbers: dict[str, Any]) -> None:
    """Append one result."""
    file = out / RESULTS
    cut_short = file.exists() and not file.read_bytes().endswith(b"\n") and file.stat().st_size > 0
    with open(file, "a", encoding="utf-8") as lines:
        lines.write(("\n" if cut_short else "") + json.dumps({"job": job._asdict(), "numbers": numbers}) + "\n")


def arms(jobs: Sequence[Job]) -> list[tuple[str, str]]:
    """(encoder, method) of some jobs, each once, in their order."""
    return list(dict.fromkeys((job.encoder, job.method) for job in jobs))
