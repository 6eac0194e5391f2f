"""The training loop on a GPU: files to steps, beside steps on a synthetic batch that is on the device already."""

import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import torch

from benchmarks.speed.figures import BenchmarkSettings, Measurement, Result, Skipped
from benchmarks.speed.images import write_images
from benchmarks.speed.loader import repeated
from benchmarks.speed.timing import medians
from benchmarks.speed.training import EPOCH, GFLOP, build_views, make_trainer, sizes_of
from benchmarks.speed.views3d import QUICK_SHAPE, SHAPE, write_crops
from data.datasets.images import ImageFiles
from data.datasets.luna import CropFiles
from data.loader import Loader
from engine.prefetch import prefetch
from engine.trainer import Trainer
from utils.devices import to_device
from utils.records import Views
from utils.seeding import torch_generator

BATCHES, QUICK_BATCH = {2: 64, 3: 32}, 2  # as published
STEPS, QUICK_STEPS = 40, 2
WORKERS, QUICK_WORKERS = 16, 1
# 2D images a second and 3D pairs a second that one H200 with 16 cores should reach.
RATES = {2: 2000, 3: 250}
MATRIX, QUICK_MATRIX = 8192, 64
MOST_VIEWS, MOST_WAITING = 0.10, 0.05


def wait_for(device: torch.device) -> None:
    """Until all that was asked of a GPU is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_on(device: torch.device, action: Callable[[], Any]) -> float:
    """Seconds until the device has done an action."""
    wait_for(device)
    began = time.perf_counter()
    action()
    wait_for(device)
    return time.perf_counter() - began


def matrix_tflops(device: torch.device, size: int) -> float:
    """The rate of multiplying square bf16 matrices, 10^12 operations a second."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    (seconds,) = medians(lambda: seconds_on(device, lambda: [a @ b for _ in range(10)]), repeats=5)
    return 10 * 2 * size**3 / seconds / 1e12


def make_dataset(d: int, settings: BenchmarkSettings, samples: int) -> ImageFiles | CropFiles:
    """Files enough for an epoch of ``samples``, most of them the same."""
    if d == 2:
        files = write_images(settings)
        return repeated(files, -(-samples // len(files)))
    crops = write_crops(settings.folder / "crops", QUICK_BATCH, QUICK_SHAPE if settings.quick else SHAPE)
    crops.crops *= -(-samples // len(crops))
    return crops


class Loop:
    """The loop of one dimension on one device, and what its parts take."""

    def __init__(self, d: int, device: torch.device, settings: BenchmarkSettings) -> None:
        quick = settings.quick
        self.device, self.batch = device, QUICK_BATCH if quick else BATCHES[d]
        self.steps = QUICK_STEPS if quick else STEPS
        self.views = build_views(d, sizes_of(d, quick=quick))
        dataset = make_dataset(d, settings, self.steps * self.batch)
        self.loader = Loader(
            dataset, batch_size=self.batch, workers=QUICK_WORKERS if quick else WORKERS, seed=0,
            pin_memory=device.type == "cuda",
        )  # fmt: skip
        self.raw = to_device(next(self.loader.batches(EPOCH)), device)
        self.trainer = self._trainer(d, settings, self.views)
        made = self.make_views()
        self.bare = self._trainer(d, settings, lambda batch, generator: made)
        self.numbers, self.waited = count(), 0.0

    def _trainer(self, d: int, settings: BenchmarkSettings, views: Any) -> Trainer:
        trainer = make_trainer(d, self.device, settings.folder, views, amp=True)
        trainer.check_half_precision(self.raw)
        return trainer

    def make_views(self) -> Views:
        """The views of the batch on the device."""
        with torch.no_grad():
            return self.views(self.raw, torch_generator("benchmark", device=self.device))

    def synthetic(self, trainer: Trainer) -> None:
        """An epoch's steps on the batch on the device."""
        for _ in range(self.steps):
            trainer.train_step(self.raw, EPOCH, next(self.numbers))

    def real(self) -> None:
        """An epoch's steps on files."""
        self.waited = 0.0
        for batch, waited in prefetch(self._epoch(), self.device):
            self.trainer.train_step(batch, EPOCH, next(self.numbers))
            self.waited += waited

    def _epoch(self) -> Iterator[Any]:
        for step, batch in enumerate(self.loader.batches(EPOCH)):
            if step == self.steps:
                return
            yield batch


def measure_loop(d: int, device: torch.device, settings: BenchmarkSettings) -> list[Result]:
    """One dimension: rate, share of the views and of waiting, memory, share of the matrix rate."""
    loop = Loop(d, device, settings)
    samples = loop.steps * loop.batch
    waits: list[float] = []

    def real() -> float:
        seconds = seconds_on(device, loop.real)
        waits.append(loop.waited / seconds)
        return seconds

    bare_s, synthetic_s, real_s, views_s = medians(
        lambda: seconds_on(device, lambda: loop.synthetic(loop.bare)),
        lambda: seconds_on(device, lambda: loop.synthetic(loop.trainer)),
        real,
        lambda: seconds_on(device, lambda: [loop.make_views() for _ in range(loop.steps)]),
        repeats=settings.repeats,
    )
    tflops = matrix_tflops(device, QUICK_MATRIX if settings.quick else MATRIX)
    achieved = GFLOP[d] * samples / real_s / 1000
    per_sample = 1000 / samples
    results: list[Result] = [
        Measurement("gpu", f"{d}D sample, from files", "ms", real_s * per_sample, "synthetic batch on the device",
               synthetic_s * per_sample, at_most=1.05),
        Measurement("gpu", f"{d}D sample, from files, as the rate asked for", "ms", real_s * per_sample,
               at_most=1000 / RATES[d]),
        Measurement("gpu", f"{d}D step on views made before", "ms", 1000 * bare_s / loop.steps),
        Measurement("gpu", f"{d}D views, share of a step", "", views_s / synthetic_s, at_most=MOST_VIEWS),
        Measurement("gpu", f"{d}D waiting for data, share of a step", "", max(waits), at_most=MOST_WAITING),
        Measurement("gpu", f"{d}D rate of the chip for matrices, over that of a step", "", tflops / achieved),
    ]  # fmt: skip
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) / 1e9
        results.append(Measurement("gpu", f"{d}D peak memory of the GPU, {loop.batch} samples a step", "GB", peak))
    return results


def measure(settings: BenchmarkSettings) -> list[Result]:
    """2D and 3D on the first GPU."""
    if not torch.cuda.is_available():
        return [Skipped("gpu", "the loop on files beside synthetic batches on the device", "there is no GPU here")]
    device, results = torch.device("cuda", 0), []
    for d in (2, 3):
        torch.cuda.reset_peak_memory_stats(device)
        results += measure_loop(d, device, settings)
        torch.cuda.empty_cache()
    return results
