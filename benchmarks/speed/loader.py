"""Measure the loader with two workers, compared with Pillow's decoding on two cores."""

from collections.abc import Callable

import numpy as np

from benchmarks.speed.images import cache_of, decode, write_images
from benchmarks.speed.results import BenchmarkSettings, Measurement, Result
from benchmarks.speed.timing import Timing, medians, seconds_of, threads
from data.catalog.names import NameList
from data.datasets.images import ImageFiles
from data.loader import Loader

WORKERS = 2
BATCHES, QUICK_BATCHES = 16, 2


def repeated(files: ImageFiles, times: int) -> ImageFiles:
    """Repeat every file of a data set ``times`` times."""
    return ImageFiles(files.folders, NameList.of(list(files.names) * times), np.tile(files.folder_of, times))


def epoch_of(dataset: ImageFiles, batch_size: int) -> Callable[[], None]:
    """Return an action that loads one epoch; the workers persist between epochs."""
    loader = Loader(dataset, batch_size=batch_size, workers=WORKERS, seed=0)

    def run() -> None:
        for _ in loader.batches(0):
            pass

    return run


def measure(settings: BenchmarkSettings) -> list[Result]:
    """Measure loading from files and from a cache."""
    few = write_images(settings)
    files = repeated(few, QUICK_BATCHES if settings.quick else BATCHES)
    cached = cache_of(files, settings)
    paths = [few.path(i) for i in range(len(few))]

    def ms_of(action: Callable[[], object], samples: int) -> Timing:
        seconds = seconds_of(action)
        return lambda: 1000 * seconds() / samples

    with threads(1):
        theirs, ours, ours_cached = medians(
            ms_of(lambda: decode(paths), len(paths) * WORKERS),
            ms_of(epoch_of(files, len(few)), len(files)),
            ms_of(epoch_of(cached, len(few)), len(files)),
            repeats=settings.repeats,
        )
    what, yardstick = f"an image from {WORKERS} loader workers", f"Pillow's decoding on {WORKERS} cores"
    return [
        Measurement("loader", what, "ms", ours, yardstick, theirs),
        Measurement("loader", f"{what}, --cache", "ms", ours_cached, yardstick, theirs),
    ]
