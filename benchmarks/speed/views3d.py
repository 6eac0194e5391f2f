"""Measure loading and views in 3D, compared with the published recipe of TorchIO's transforms."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.speed.results import BenchmarkSettings, Measurement, Result, Skipped
from benchmarks.speed.timing import core_ms_of, medians, threads
from data.catalog.names import NameList
from data.datasets.luna import CropFile, CropFiles
from data.views3d import Views3d

SHAPE, QUICK_SHAPE = (64, 64, 32), (16, 16, 16)
LOCAL_SHAPE = (16, 16, 16)
BATCH, QUICK_BATCH = 8, 2


def write_crops(folder: Path, count: int, shape: tuple[int, int, int]) -> CropFiles:
    """Write crop pairs of random voxels in 0..1 as luna_preprocess.py does, and return their data set."""
    folder.mkdir(parents=True)
    rng, crops = np.random.default_rng(0), []
    for i in range(count):
        crop = CropFile("scan", f"scan_{i}", folder / f"scan_global_{i}.npy", folder / f"scan_local_{i}.npy")
        np.save(crop.pair, rng.random((2, *shape), dtype=np.float32))
        np.save(crop.local, rng.random((6, *LOCAL_SHAPE), dtype=np.float32))
        crops.append(crop)
    return CropFiles(crops, NameList.of(["scan"]))


def make_recipe() -> Callable[[CropFile], None]:
    """Build the published recipe, which maps the files of one crop pair and its local crops to inputs.

    Raises:
        ImportError: TorchIO is not installed.
    """
    import torchio as tio

    spatial = tio.Compose([tio.RandomFlip(), tio.RandomAffine()])
    blurred = [tio.RandomBlur(), tio.RandomNoise(), tio.RandomGamma()]
    local_intensity = tio.Compose([*blurred, tio.ZNormalization()])
    global_intensity = tio.Compose([*blurred, tio.RandomSwap(patch_size=(8, 4, 4)), tio.ZNormalization()])

    def run(crop: CropFile) -> None:
        for path, intensity in ((crop.pair, global_intensity), (crop.local, local_intensity)):
            for one in torch.from_numpy(np.load(path)).unsqueeze(1):
                intensity(spatial(one))

    return run


def measure(settings: BenchmarkSettings) -> list[Result]:
    """Measure loading and views from files."""
    what = "all before the 3D network, a crop pair"
    try:
        recipe = make_recipe()
    except ImportError:
        return [Skipped("views3d", what, "its yardstick TorchIO is not installed (requirements-dev.txt)")]
    shape, batch = (QUICK_SHAPE, QUICK_BATCH) if settings.quick else (SHAPE, BATCH)
    dataset = write_crops(settings.folder / "crops", batch, shape)
    views, generator = Views3d(), torch.Generator().manual_seed(0)

    def ours() -> None:
        views(dataset.collate([dataset[i] for i in range(batch)]), generator)

    with threads(1):
        theirs_ms, ours_ms = medians(
            core_ms_of(lambda: [recipe(crop) for crop in dataset.crops], batch),
            core_ms_of(ours, batch),
            repeats=settings.repeats,
        )
    return [Measurement("views3d", what, "ms of a core", ours_ms, "TorchIO", theirs_ms, at_least=4)]
