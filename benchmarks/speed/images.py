"""Measure a loader worker's time per image, compared with Pillow's decoding."""

from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from benchmarks.speed.made_up import write_xrays
from benchmarks.speed.results import BenchmarkSettings, Measurement, Result
from benchmarks.speed.timing import core_ms_of, medians, threads
from data.datasets.image_cache import CachedImages
from data.datasets.images import ImageFiles

SIDE, QUICK_SIDE = 1024, 96  # pixels
CACHE_SIDE, QUICK_CACHE_SIDE = 512, 64
BATCH, QUICK_BATCH = 64, 2  # as published


def decode(paths: Sequence[Path]) -> None:
    """Decode images with Pillow, without conversion or copy."""
    for path in paths:
        with Image.open(path) as image:
            image.load()


def load_batch(dataset: ImageFiles) -> Callable[[], None]:
    """Return an action that loads one batch of all images as workers do."""

    def load() -> None:
        dataset.collate([dataset[i] for i in range(len(dataset))])

    return load


def write_images(settings: BenchmarkSettings) -> ImageFiles:
    """Write a batch of images."""
    side, batch = (QUICK_SIDE, QUICK_BATCH) if settings.quick else (SIDE, BATCH)
    return write_xrays(settings.folder / "images", batch, side)


def cache_of(files: ImageFiles, settings: BenchmarkSettings) -> CachedImages:
    """Cache the images."""
    size = QUICK_CACHE_SIDE if settings.quick else CACHE_SIDE
    return CachedImages(files, settings.folder / "cache", size=size).fill(workers=0)


def measure(settings: BenchmarkSettings) -> list[Result]:
    """Measure a worker's time per image, from files and from a cache."""
    files = write_images(settings)
    cached = cache_of(files, settings)
    paths = [files.path(i) for i in range(len(files))]
    with threads(1):
        theirs, ours, ours_cached = medians(
            core_ms_of(lambda: decode(paths), len(files)),
            core_ms_of(load_batch(files), len(files)),
            core_ms_of(load_batch(cached), len(files)),
            repeats=settings.repeats,
        )
    what = f"a worker's share of a {QUICK_SIDE if settings.quick else SIDE}² PNG"
    return [
        Measurement("images", what, "ms of a core", ours, "Pillow's decoding", theirs, at_most=1.5),
        Measurement(
            "images", f"{what}, --cache", "ms of a core", ours_cached, "Pillow's decoding", theirs, at_most=0.3
        ),
    ]
