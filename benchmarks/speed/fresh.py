"""Measure crop pairs drawn out of whole volumes, compared with reading crop pairs from files."""

from pathlib import Path

import luna_preprocess
from benchmarks.speed.made_up import write_scans
from benchmarks.speed.preprocess import QUICK_SIZE, QUICK_SPACING, SIZE, SPACING
from benchmarks.speed.results import BenchmarkSettings, Measurement, Result
from benchmarks.speed.timing import core_ms_of, medians, threads
from data.catalog.crop_sets import CROP_SETS
from data.catalog.names import NameList
from data.datasets.luna import CropFiles, find_crop_files
from data.datasets.whole_volumes import WholeVolumes, find_volume_files
from data.fresh_crops import FreshCrops

PAIRS, QUICK_PAIRS = 16, 2
LIMIT = 10.0  # ms of a core


def preprocess(scans: Path, save: Path, pairs: int, *more: str) -> Path:
    """Preprocess scans in this process; returns the folder."""
    luna_preprocess.main(
        ["--data", str(scans), "--save", str(save), "--scale", str(pairs), "--workers", "1", *more]
    )  # fmt: skip
    return save


def measure(settings: BenchmarkSettings) -> list[Result]:
    """Measure samples of a loader worker; those drawn are of another epoch each time."""
    size, spacing = (QUICK_SIZE, QUICK_SPACING) if settings.quick else (SIZE, SPACING)
    pairs, names = QUICK_PAIRS if settings.quick else PAIRS, NameList.of(["scan0"])
    scans = settings.folder / "scans"
    write_scans(scans, 1, size=size, spacing=spacing)
    crops = CropFiles(find_crop_files(preprocess(scans, settings.folder / "crops", pairs), "train"), names)
    save = preprocess(scans, settings.folder / "volumes", pairs, "--volumes")
    fresh = FreshCrops(WholeVolumes(find_volume_files(save, "train", CROP_SETS["luna"]), names), seed=0)
    epochs = iter(range(10**6))

    def draw() -> None:
        epoch = next(epochs)
        for index in range(pairs):
            fresh.draw(epoch, index)

    with threads(1):
        read_ms, drawn_ms = medians(
            core_ms_of(lambda: [crops[index] for index in range(pairs)], pairs), core_ms_of(draw, pairs),
            repeats=settings.repeats,
        )  # fmt: skip
    return [
        Measurement("fresh", "a crop pair drawn out of a whole volume", "ms of a core", drawn_ms, at_most=LIMIT),
        Measurement("fresh", "drawing compared with reading crops", "ms of a core", drawn_ms, "crop files", read_ms),
    ]
