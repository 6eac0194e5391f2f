"""Write phantom files to measure on: chest CT scans and chest X-rays of any size."""

import os
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image

from data.catalog.chest import index_chest
from data.datasets.images import ImageFiles
from data.phantoms.ct import draw_ct
from data.phantoms.xray import draw_xray

NOISE = 30  # HU


def write_scans(folder: Path, count: int, *, size: tuple[int, int, int], spacing: tuple[float, float, float]) -> None:
    """Write one phantom of ``size`` voxels (x y z) under ``count`` names in ``subset0/``; ``spacing`` in mm.

    Preprocessing draws by the scan's name, so that each name gives different crops.
    """
    rng = np.random.default_rng(0)
    phantom = sitk.GetImageFromArray(draw_ct(rng, with_nodules=True).hu)
    step = [n / m for n, m in zip(phantom.GetSize(), size, strict=True)]
    origin = [(s - 1) / 2 for s in step]
    stretched = sitk.Resample(
        phantom, size, sitk.Transform(), sitk.sitkLinear, origin, step, phantom.GetDirection(), -1000, sitk.sitkInt16
    )
    hu = sitk.GetArrayFromImage(stretched)
    scan = sitk.GetImageFromArray(hu + rng.integers(-NOISE, NOISE + 1, hu.shape, dtype=np.int16))
    scan.SetSpacing(spacing)
    (folder / "subset0").mkdir(parents=True)
    first = folder / "subset0" / "scan0.mhd"
    sitk.WriteImage(scan, str(first))
    for i in range(1, count):
        path = first.with_name(f"scan{i}.mhd")
        path.write_text(first.read_text().replace("scan0.raw", f"scan{i}.raw"))
        os.link(first.with_suffix(".raw"), path.with_suffix(".raw"))


def write_xrays(folder: Path, count: int, side: int) -> ImageFiles:
    """Write ``count`` grey 8-bit PNGs of ``side``² pixels and return their data set."""
    folder.mkdir(parents=True)
    for i in range(count):
        xray = draw_xray(np.random.default_rng(i), height=side, width=side)
        Image.fromarray(xray.image).save(folder / f"{i:08d}_000.png")
    index = index_chest(folder)
    listed = index.join(index.names, source=folder)
    return ImageFiles(index.folders, listed.names, listed.folder_of)
