"""Measure the training loop on a GPU: steps on files, compared with steps on a synthetic batch on the device."""

import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import torch

from benchmarks.speed.images import write_images
from benchmarks.speed.loader import repeated
from benchmarks.speed.results import BenchmarkSettings, Measurement, Result, Skipped
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
# Target rates of one H200 with 16 cores: 2D images per second and 3D pairs per second.
RATES = {2: 2000, 3: 250}
MATRIX, QUICK_MATRIX = 8192, 64
MAX_VIEWS_SHARE, MAX_WAITING_SHARE = 0.10, 0.05


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_on(device: torch.device, action: Callable[[], Any]) -> float:
    """Seconds until the device has finished an action."""
    wait_for(device)
    began = time.perf_counter()
    action()
    wait_for(device)
    return time.perf_counter() - began


def matrix_tflops(device: torch.device, size: int) -> float:
    """Rate of multiplying square bf16 matrices, in 10^12 operations per second."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    (seconds,) = medians(lambda: seconds_on(device, lambda: [a @ b for _ in range(10)]), repeats=5)
    return 10 * 2 * size**3 / seconds / 1e12


def make_dataset(d: int, settings: BenchmarkSettings, samples: int) -> ImageFiles | CropFiles:
    """Write files and repeat them to an epoch of ``samples``."""
    if d == 2:
        files = write_images(settings)
        return repeated(files, -(-samples // len(files)))
    crops = write_crops(settings.folder / "crops", QUICK_BATCH, QUICK_SHAPE if settings.quick else SHAPE)
    crops.crops *= -(-samples // len(crops))
    return crops


class Loop:
    """The training loop of one dimension on one device, with actions to be timed."""

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
        fixed_views = self.make_views()
        self.trainer_without_views = self._trainer(d, settings, lambda batch, generator: fixed_views)
        self.numbers, self.waited = count(), 0.0

    def _trainer(self, d: int, settings: BenchmarkSettings, views: Any) -> Trainer:
        trainer = make_trainer(d, self.device, settings.folder, views, amp=True)
        trainer.check_half_precision(self.raw)
        return trainer

    def make_views(self) -> Views:
        """Make the views of the batch on the device."""
        with torch.no_grad():
            return self.views(self.raw, torch_generator("benchmark", device=self.device))

    def synthetic(self, trainer: Trainer) -> None:
        """Run an epoch's steps on the batch on the device."""
        for _ in range(self.steps):
            trainer.train_step(self.raw, EPOCH, next(self.numbers))

    def real(self) -> None:
        """Run an epoch's steps on files."""
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
    """Measure one dimension: time per sample, shares of views and of waiting, memory, share of the matrix rate."""
    loop = Loop(d, device, settings)
    samples = loop.steps * loop.batch
    waits: list[float] = []

    def real() -> float:
        seconds = seconds_on(device, loop.real)
        waits.append(loop.waited / seconds)
        return seconds

    without_views_s, synthetic_s, real_s, views_s = medians(
        lambda: seconds_on(device, lambda: loop.synthetic(loop.trainer_without_views)),
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
        Measurement("gpu", f"{d}D sample, from files, compared with the target rate", "ms", real_s * per_sample,
               at_most=1000 / RATES[d]),
        Measurement("gpu", f"{d}D step on precomputed views", "ms", 1000 * without_views_s / loop.steps),
        Measurement("gpu", f"{d}D views, share of a step", "", views_s / synthetic_s, at_most=MAX_VIEWS_SHARE),
        Measurement("gpu", f"{d}D waiting for data, share of a step", "", max(waits), at_most=MAX_WAITING_SHARE),
        Measurement("gpu", f"{d}D rate of matrix products divided by that of a step", "", tflops / achieved),
    ]  # fmt: skip
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) / 1e9
        results.append(Measurement("gpu", f"{d}D peak GPU memory, {loop.batch} samples per step", "GB", peak))
    return results


def measure(settings: BenchmarkSettings) -> list[Result]:
    """Measure 2D and 3D on the first GPU."""
    if not torch.cuda.is_available():
        return [Skipped("gpu", "the loop on files beside synthetic batches on the device", "this machine has no GPU")]
    device, results = torch.device("cuda", 0), []
    for d in (2, 3):
        torch.cuda.reset_peak_memory_stats(device)
        results += measure_loop(d, device, settings)
        torch.cuda.empty_cache()
    return results
