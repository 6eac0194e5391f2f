"""Cutting of a cube out of a scan without reading the rest of it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from data.readers.geometry import SPACING
from data.readers.itk import open_volume, read_image, unread
from data.readers.volumes import LIGHTEST, read_volume, reorientation_of, require_hounsfield
from utils.errors import UserError


def load_cube(
    path: Path, point: Sequence[float], shape: Sequence[int], *, outside: int, as_stored: bool = True
) -> np.ndarray:  # fmt: skip
    """Cut a cube of 1 mm voxels around a point, along the axes of :func:`data.readers.volumes.load_resampled`.

    Args:
        path: the scan, in a format that :func:`data.readers.volumes.read_header` reads.
        point: world coordinates x y z, mm.
        shape: voxels.
        outside: HU outside of the scan.
        as_stored: see :class:`data.readers.volumes.VolumeSpec`.

    Returns:
        int16 of ``shape``, HU.

    Raises:
        UserError: the scan is damaged or cannot be in Hounsfield units, or the point is outside of it.
    """
    volume = open_volume(path)
    grid, half = volume.geometry, (np.array(shape) - 1) / 2 * SPACING
    target = reorientation_of(path, grid, as_stored=as_stored).geometry(grid)
    centre, size = grid.to_voxel(point), np.array(grid.size)
    if ((centre < -0.5) | (centre > size - 0.5)).any():
        raise UserError(
            f"{path}: expected candidates within the scan, {tuple(map(float, point))} mm is voxel "
            f"{centre.round(1).tolist()} of {size.tolist()}"
        )
    half_extent = abs(grid.axes.T @ target.axes).round() @ half / grid.spacing
    # One voxel more on each side, for the interpolation.
    low = np.clip(np.floor(centre - half_extent).astype(int) - 1, 0, size - 1)
    high = np.clip(np.ceil(centre + half_extent).astype(int) + 2, low + 1, size)
    volume.reader.SetExtractIndex(low.tolist())
    volume.reader.SetExtractSize((high - low).tolist())
    image = read_image(path, volume)
    # Air or fat in the cube shows that the scan is in Hounsfield units; without them, the whole scan is checked.
    if sitk.GetArrayViewFromImage(image).min() > LIGHTEST:
        require_hounsfield(path, read_volume(path)[0])
    start = np.array(point) - target.axes @ half
    try:
        cube = sitk.Resample(
            image, list(shape), sitk.Transform(), sitk.sitkLinear, start.tolist(), (SPACING,) * 3, target.direction,
            outside, sitk.sitkInt16,
        )  # fmt: skip
    except RuntimeError as error:
        raise unread(path, error) from None
    return sitk.GetArrayFromImage(cube).transpose(2, 1, 0)
