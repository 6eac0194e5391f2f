"""Resampling of a mask or another channel to the grid of its image."""

import itertools
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from data.readers.dicom_series import DicomSeries
from data.readers.geometry import Geometry
from utils.errors import UserError

# Voxels by which the corners of two equal grids may differ, since headers are rounded.
SAME_GRID = 0.1


def bring_onto(
    grid: Geometry | None,
    values: np.ndarray,
    own: Geometry | None,
    *,
    path: Path | DicomSeries,
    image: Path | DicomSeries,
    kind: str,
    nearest: bool,
) -> np.ndarray:
    """Resample the values of one file to the grid of another that covers the same box in the patient.

    Axes may be permuted or flipped, and voxels of another size. If a file has no geometry, such as a ``.npy``, values
    are returned as they are.

    Args:
        grid: the grid of the image; None if its file has no geometry.
        values: X Y Z.
        own: the grid of the values; None if their file has no geometry.
        path, image: the files of values and image, for errors.
        kind: what the values are, for errors: ``'a mask'``.
        nearest: take the nearest voxel, as for labels, instead of interpolating.

    Raises:
        UserError: the two cover different boxes in the patient.
    """
    if grid is None or own is None:
        return values
    if own.size == grid.size and _corner_distance(own, grid).max() < SAME_GRID:
        return values
    if not covers_same_box(own, grid):
        raise UserError(
            f"{path}: expected {kind} of the size of {image}, {grid.size}, got {own.size}; and of the same place in "
            f"the patient, {grid}, got {own}; correct the wrong header, or resample one file onto the other's grid"
        )
    return _resample(values, own, grid, nearest=nearest)


def covers_same_box(one: Geometry, other: Geometry) -> bool:
    """Return whether two volumes fill the same box in the patient, to within a voxel of the coarser on each side."""
    step = abs(other.axes.T @ one.axes) @ np.array(one.spacing) / other.spacing
    corners = np.array([other.to_voxel(one.to_mm(corner)) for corner in _outer_corners(one)])
    low, high = corners.min(axis=0), corners.max(axis=0)
    off = np.maximum(abs(low + 0.5), abs(high + 0.5 - np.array(other.size)))
    return bool((off < np.maximum(step, 1) - SAME_GRID).all())


def _outer_corners(grid: Geometry) -> list[tuple[float, ...]]:
    """Return the voxel coordinates of the corners of the box that voxels fill, half a voxel beyond their centres."""
    return list(itertools.product(*((-0.5, n - 0.5) for n in grid.size)))


def _corner_distance(one: Geometry, other: Geometry) -> np.ndarray:
    """Return the distances between the corners of two grids of one size, in voxels."""
    return np.array([abs(other.to_voxel(one.to_mm(corner)) - corner).max() for corner in _outer_corners(one)])


def _resample(values: np.ndarray, own: Geometry, grid: Geometry, *, nearest: bool) -> np.ndarray:
    image = sitk.GetImageFromArray(values.transpose(2, 1, 0))
    image.SetSpacing(own.spacing)
    image.SetOrigin(own.origin)
    image.SetDirection(own.direction)
    interpolator = sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear
    # The last argument repeats the outermost voxels outside of the volume, by one voxel at most.
    resampled = sitk.Resample(
        image,
        grid.size,
        sitk.Transform(),
        interpolator,
        grid.origin,
        grid.spacing,
        grid.direction,
        0,
        image.GetPixelID(),
        True,
    )
    return sitk.GetArrayFromImage(resampled).transpose(2, 1, 0)
