"""What is to be measured, one line of results each; results that are there already are not computed again."""

import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.transfer import frozen
from benchmarks.transfer.networks import CLASSIFICATION, SEGMENTATION, build_network
from benchmarks.transfer.phantoms import Phantoms, draw_phantoms
from benchmarks.transfer.pretraining import VARIANTS, WHOLE, pretrain
from benchmarks.transfer.scores import score
from benchmarks.transfer.settings import Settings
from benchmarks.transfer.tuning import fit, predict
from utils.seeding import seed_of

RESULTS = "results.jsonl"
RANDOM = "random"
FROZEN, FINE_TUNED = "frozen", "fine-tuned"
TASKS = (CLASSIFICATION, SEGMENTATION)
RATES = (3e-4, 1e-3)
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


def encoder_file(job: Job, settings: Settings) -> Path | None:
    """The encoder of a job; None for a random one."""
    return None if job.encoder == RANDOM else pretrain(job.encoder, job.seed % settings.replicates, settings)


def run_job(job: Job, settings: Settings) -> dict[str, float]:
    """The numbers of one job on the test part.

    The labelled images are the seed's own; a smaller share of them is the beginning of a larger. The learning rate, and
    the regularisation of a linear readout, are those best on the validation part, in every arm alike.
    """
    device = settings.torch_device
    count = max(2, round(settings.labels * job.percent / 100))
    train = drawn(count, settings.size, "labelled", job.seed).to(device)
    valid = drawn(settings.valid, settings.size, "validation").to(device)
    test = drawn(settings.test, settings.size, "test").to(device)
    unlabelled = drawn(min(CALIBRATION, settings.images), settings.size, "unlabelled").images.to(device)
    file = encoder_file(job, settings)
    network = build_network(job.task, file, unlabelled, job.seed)
    if job.method == FROZEN:
        read = frozen.classify if job.task == CLASSIFICATION else frozen.segment
        return read(network, train, valid, test)
    return _fine_tune(job, settings, file, unlabelled, (train, valid, test))


def _fine_tune(
    job: Job, settings: Settings, file: Path | None, unlabelled: torch.Tensor, parts: tuple[Phantoms, ...]
) -> dict[str, float]:
    train, valid, test = parts
    seed = seed_of("transfer", job.seed, job.task)
    tuned = [
        fit(build_network(job.task, file, unlabelled, job.seed), train, valid, lr=lr, steps=settings.steps, seed=seed)
        for lr in RATES
    ]
    network, _ = max(tuned, key=lambda pair: pair[1])
    return score(job.task, predict(network, test.images), test)


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
        for job, numbers in zip(left, pool.map(run_job, left, [settings] * len(left)), strict=True):
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
