"""Measure the training loop on a GPU: steps on a synthetic batch on the device, and on files beside it.

Needs little but PyTorch. Steps on files need what reading the files needs, and are left out where that is missing.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.speed.results import BenchmarkSettings, Measurement, Result, Skipped
from benchmarks.speed.timing import medians
from benchmarks.speed.training import EPOCH, GFLOP, SIDE, build_views, make_trainer, raw_batch, sizes_of
from data.loader import Loader
from engine.prefetch import prefetch
from engine.trainer import Trainer
from utils.records import Views
from utils.seeding import torch_generator

BATCHES, QUICK_BATCH = {2: 64, 3: 32}, 2  # as published
STEPS, QUICK_STEPS = 40, 1
WORKERS, QUICK_WORKERS = 16, 1
FILES, QUICK_SIDE = 64, 96
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


def write_images(folder: Path, number: int, side: int) -> list[str]:
    """Write grey PNGs of coarse structures and fine noise, about as long to decode as X-rays; returns the names."""
    folder.mkdir(parents=True)
    rng, names = np.random.default_rng(0), [f"{i:08d}_000.png" for i in range(number)]
    for name in names:
        coarse = Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).resize((side, side))
        noisy = np.asarray(coarse) + rng.normal(0, 2, (side, side))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / name)
    return names


def make_dataset(d: int, settings: BenchmarkSettings, samples: int) -> Any:
    """Write files, and return a data set that repeats them to ``samples``.

    Raises:
        ImportError: a package that reading the files needs is not installed.
    """
    from benchmarks.speed.views3d import QUICK_SHAPE, SHAPE, write_crops
    from data.catalog.names import NameList
    from data.datasets.images import ImageFiles

    folder = settings.folder / f"files{d}d"
    if d == 2:
        names = write_images(folder, QUICK_BATCH if settings.quick else FILES, QUICK_SIDE if settings.quick else SIDE)
        repeats = -(-samples // len(names))
        return ImageFiles([folder], NameList.of(names * repeats), np.zeros(len(names) * repeats, np.int64))
    crops = write_crops(folder, QUICK_BATCH, QUICK_SHAPE if settings.quick else SHAPE)
    crops.crops *= -(-samples // len(crops))
    return crops


class Loop:
    """The training loop of one dimension on one device, with actions to be timed."""

    def __init__(self, d: int, device: torch.device, settings: BenchmarkSettings) -> None:
        quick = settings.quick
        self.device, self.batch = device, QUICK_BATCH if quick else BATCHES[d]
        self.steps = QUICK_STEPS if quick else STEPS
        sizes = sizes_of(d, quick=quick)
        self.views = build_views(d, sizes)
        self.raw = raw_batch(d, sizes, self.batch, device)
        self.trainer = self._trainer(d, settings, self.views)
        fixed_views = self.make_views()
        self.trainer_without_views = self._trainer(d, settings, lambda batch, generator: fixed_views)
        self.numbers, self.waited = count(), 0.0

    def _trainer(self, d: int, settings: BenchmarkSettings, views: Any, **kind: bool) -> Trainer:
        trainer = make_trainer(d, self.device, settings.folder, views, amp=True, **kind)
        trainer.check_half_precision(self.raw)
        return trainer

    def trainer_of_kind(self, d: int, settings: BenchmarkSettings, kind: str) -> Trainer:
        """A trainer with ``--graph`` or ``--compile``."""
        return self._trainer(d, settings, self.views, **{kind: True})

    def make_views(self) -> Views:
        """Make the views of the batch on the device."""
        with torch.no_grad():
            return self.views(self.raw, torch_generator("benchmark", device=self.device))

    def synthetic(self, trainer: Trainer) -> None:
        """Run an epoch's steps on the batch on the device."""
        for _ in range(self.steps):
            trainer.train_step(self.raw, EPOCH, next(self.numbers))

    def real(self, loader: Loader) -> None:
        """Run an epoch's steps on files."""
        self.waited = 0.0
        for batch, waited in prefetch(self._epoch(loader), self.device):
            self.trainer.train_step(batch, EPOCH, next(self.numbers))
            self.waited += waited

    def _epoch(self, loader: Loader) -> Iterator[Any]:
        yield from islice(loader.batches(EPOCH), self.steps)


def measure_loop(d: int, device: torch.device, settings: BenchmarkSettings) -> list[Result]:
    """Measure one dimension: time per sample, share of views, memory, share of the matrix rate; then steps on files."""
    loop = Loop(d, device, settings)
    actions = (
        partial(loop.synthetic, loop.trainer_without_views), partial(loop.synthetic, loop.trainer),
        lambda: [loop.make_views() for _ in range(loop.steps)],
    )  # fmt: skip
    without_views_s, synthetic_s, views_s = medians(
        *(partial(seconds_on, device, action) for action in actions), repeats=settings.repeats
    )
    tflops = matrix_tflops(device, QUICK_MATRIX if settings.quick else MATRIX)
    samples = loop.steps * loop.batch
    achieved = GFLOP[d] * samples / synthetic_s / 1000
    results: list[Result] = [
        Measurement("gpu", f"{d}D sample, synthetic batch on the device", "ms", 1000 * synthetic_s / samples,
                    at_most=1000 / RATES[d]),
        Measurement("gpu", f"{d}D step on precomputed views", "ms", 1000 * without_views_s / loop.steps),
        Measurement("gpu", f"{d}D views, share of a step", "", views_s / synthetic_s, at_most=MAX_VIEWS_SHARE),
        Measurement("gpu", f"{d}D rate of matrix products divided by that of a step", "", tflops / achieved),
    ]  # fmt: skip
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) / 1e9
        results.append(Measurement("gpu", f"{d}D peak GPU memory, {loop.batch} samples per step", "GB", peak))
        results += [measure_kind(loop, d, settings, kind) for kind in ("graph", "compile")]
    return [*results, *measure_files(loop, d, settings)]


def measure_kind(loop: Loop, d: int, settings: BenchmarkSettings, kind: str) -> Result:
    """Measure steps with ``--graph`` or ``--compile`` beside those without, on a synthetic batch."""
    what = f"{d}D sample, synthetic batch, --{kind}"
    try:
        trainer = loop.trainer_of_kind(d, settings, kind)
        # The graph is recorded and the network compiled before the clock starts.
        loop.synthetic(trainer)
    except RuntimeError as error:
        return Skipped("gpu", what, str(error).partition("\n")[0])
    ours, plain = medians(
        *(partial(seconds_on, loop.device, partial(loop.synthetic, x)) for x in (trainer, loop.trainer)),
        repeats=settings.repeats,
    )
    per_sample = 1000 / loop.steps / loop.batch
    return Measurement("gpu", what, "ms", ours * per_sample, "without it", plain * per_sample)


def measure_files(loop: Loop, d: int, settings: BenchmarkSettings) -> list[Result]:
    """Measure steps on files beside those on a synthetic batch, and the share of waiting for files."""
    samples = loop.steps * loop.batch
    try:
        dataset = make_dataset(d, settings, samples)
    except ImportError as error:
        return [Skipped("gpu", f"{d}D sample, from files", f"{error.name} is not installed")]
    loader = Loader(
        dataset, batch_size=loop.batch, workers=QUICK_WORKERS if settings.quick else WORKERS, seed=0,
        pin_memory=loop.device.type == "cuda",
    )  # fmt: skip
    waits: list[float] = []

    def real() -> float:
        seconds = seconds_on(loop.device, lambda: loop.real(loader))
        waits.append(loop.waited / seconds)
        return seconds

    real_s, synthetic_s = medians(
        real, partial(seconds_on, loop.device, partial(loop.synthetic, loop.trainer)), repeats=settings.repeats
    )
    real_ms, synthetic_ms = (1000 * seconds / samples for seconds in (real_s, synthetic_s))
    return [
        Measurement("gpu", f"{d}D sample, from files", "ms", real_ms, "synthetic batch", synthetic_ms, at_most=1.05),
        Measurement("gpu", f"{d}D waiting for data, share of a step", "", max(waits), at_most=MAX_WAITING_SHARE),
    ]


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
