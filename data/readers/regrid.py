"""A mask or another channel brought onto the grid of the image that it belongs to."""

import itertools
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from data.readers.geometry import Geometry
from utils.errors import UserError

# Voxels by which the corners of two grids may differ that are taken for one: headers are rounded.
SAME_GRID = 0.1


def bring_onto(
    grid: Geometry | None,
    values: np.ndarray,
    own: Geometry | None,
    *,
    path: Path,
    image: Path,
    kind: str,
    nearest: bool,
) -> np.ndarray:
    """Values of one file on the grid of another, which shows the same place in the patient.

    Axes that are permuted or flipped and voxels of another size are resampled. Where a file knows no geometry, as a
    ``.npy``, sizes must be equal.

    Args:
        grid: of the image; None where it knows none.
        values: X Y Z.
        own: their grid; None where their file knows none.
        path, image: the files, for errors.
        kind: what the first of them is: ``'a mask'``.
        nearest: take the nearest voxel, as for labels; else interpolate between neighbours.

    Raises:
        UserError: the two lie in different places, or have different sizes where one knows no geometry.
    """
    if grid is None or own is None:
        return values
    if own.size == grid.size and _corner_distance(own, grid).max() < SAME_GRID:
        return values
    if not shows_same_place(own, grid):
        raise UserError(
            f"{path}: expected {kind} of the size of {image}, {grid.size}, got {own.size}; and of the same place in "
            f"the patient, {grid}, got {own}; correct the wrong header, or resample one file onto the other's grid"
        )
    return _resample(values, own, grid, nearest=nearest)


def shows_same_place(one: Geometry, other: Geometry) -> bool:
    """Whether two volumes fill the same box in the patient, but for less than a voxel of the coarser on each side."""
    step = abs(other.axes.T @ one.axes) @ np.array(one.spacing) / other.spacing
    corners = np.array([other.to_voxel(one.to_mm(corner)) for corner in _outer_corners(one)])
    low, high = corners.min(axis=0), corners.max(axis=0)
    off = np.maximum(abs(low + 0.5), abs(high + 0.5 - np.array(other.size)))
    return bool((off < np.maximum(step, 1) - SAME_GRID).all())


def _outer_corners(grid: Geometry) -> list[tuple[float, ...]]:
    """Voxel coordinates of the corners of the box that voxels fill, half a voxel beyond their middles."""
    return list(itertools.product(*((-0.5, n - 0.5) for n in grid.size)))


def _corner_distance(one: Geometry, other: Geometry) -> np.ndarray:
    """How far the corners of two grids of one size are apart, in voxels."""
    return np.array([abs(other.to_voxel(one.to_mm(corner)) - corner).max() for corner in _outer_corners(one)])


def _resample(values: np.ndarray, own: Geometry, grid: Geometry, *, nearest: bool) -> np.ndarray:
    image = sitk.GetImageFromArray(values.transpose(2, 1, 0))
    image.SetSpacing(own.spacing)
    image.SetOrigin(own.origin)
    image.SetDirection(own.direction)
    how = sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear
    # Beyond the last voxel, by one at most, lies what it holds.
    turned = sitk.Resample(
        image, grid.size, sitk.Transform(), how, grid.origin, grid.spacing, grid.direction, 0, image.GetPixelID(), True
    )
    return sitk.GetArrayFromImage(turned).transpose(2, 1, 0)
