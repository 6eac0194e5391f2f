"""Resampling of volumes along their axes by linear interpolation, as SimpleITK's Resample."""

from typing import NamedTuple

import numpy as np

LIMITS = np.iinfo(np.int16)


class Axis(NamedTuple):
    """The input voxels between which the output voxels along one axis are interpolated."""

    below: np.ndarray
    """int64: the lower of the two."""
    step: int
    """From the lower to the upper one: 1, or 0 on an axis of one voxel."""
    share: np.ndarray
    """float64: the weight of the upper one."""
    outside: np.ndarray
    """bool: more than half a voxel beyond the outermost centres."""


def resample(
    volume: np.ndarray,
    spacing: tuple[float, float, float],
    origin: tuple[float, float, float],
    size: tuple[int, int, int],
    needed: tuple[slice, slice, slice],
    *,
    outside: int = 0,
) -> np.ndarray:
    """Resample part of a volume to another spacing; origin and direction stay.

    Computed in float64 along x, y and z in turn and truncated towards zero, as by SimpleITK. About one voxel in 100,000
    differs by 1, if its sum is very close to an integer. It works slice by slice and takes a sixth of SimpleITK's time.

    Args:
        volume: Z Y X, of any number type.
        spacing: of the volume divided by that of the result, x first.
        origin: of both, in voxels of the result; it affects how positions are rounded.
        size: of the whole result, x first.
        needed: the part of it to compute, x first.
        outside: the value outside of the volume.

    Returns:
        int16 of ``size``, Z Y X; 0 outside of the part needed.
    """
    lengths = volume.shape[::-1]
    x, y, z = (_axis(lengths[i], spacing[i], origin[i], size[i], needed[i], steps=i == 0) for i in range(3))
    result = np.zeros(size[::-1], dtype=np.int16)
    part = result[needed[2], needed[1], needed[0]]
    whole = np.issubdtype(volume.dtype, np.integer) and volume.dtype.itemsize <= 2 and volume.dtype != np.uint16
    slices: dict[int, np.ndarray] = {}
    for out, below, share in zip(part, z.below.tolist(), z.share, strict=True):
        slices = {i: slices[i] if i in slices else _plane(volume[i], x, y) for i in (below, below + z.step)}
        mixed = slices[below + z.step] - slices[below]
        mixed *= share
        mixed += slices[below]
        out[:] = mixed if whole else np.nan_to_num(mixed, copy=False, nan=0).clip(LIMITS.min, LIMITS.max)
    part[z.outside] = outside
    part[:, y.outside] = outside
    part[:, :, x.outside] = outside
    return result


def resample_nearest(labels: np.ndarray, spacing: tuple[float, ...], size: tuple[int, ...]) -> np.ndarray:
    """Resample labels to another spacing by nearest neighbour; the centre of the first voxel stays.

    Args:
        labels: uint8 X Y Z.
        spacing: of the labels divided by that of the result.
        size: of the result.

    Returns:
        uint8 of ``size``; 0 outside of the volume.
    """
    nearest = [np.floor(np.arange(n) / s + 0.5).astype(np.int64) for n, s in zip(size, spacing, strict=True)]
    inside = [axis[axis < n] for axis, n in zip(nearest, labels.shape, strict=True)]
    result = np.zeros(size, dtype=labels.dtype)
    result[tuple(slice(len(axis)) for axis in inside)] = labels[np.ix_(*inside)]
    return result


def _axis(length: int, spacing: float, origin: float, size: int, needed: slice, *, steps: bool) -> Axis:
    """Compute positions in the same order of operations as SimpleITK, so that they are rounded equally.

    ``steps``: whether SimpleITK interpolates positions along this axis between its first and its last one.
    """
    voxels = np.arange(size, dtype=np.float64)
    per_voxel = 1 / spacing
    if steps:
        position = ((origin + size) - origin) * per_voxel * (voxels / size)
    else:
        position = ((origin + voxels) - origin) * per_voxel
    position = position[needed]
    outside = position >= length - 0.5
    position = position.clip(0, length - 1)
    below = np.minimum(position.astype(np.int64), max(length - 2, 0))
    return Axis(below, int(length > 1), position - below, outside)


def _plane(plane: np.ndarray, x: Axis, y: Axis) -> np.ndarray:
    """Resample a slice Y X to y x, float64."""
    first, last = y.below[0], y.below[-1] + y.step
    lines = plane[first : last + 1].astype(np.float64)
    lines = _mix(lines, x.below, x.step, x.share, axis=1)
    return _mix(lines, y.below - first, y.step, y.share[:, None], axis=0)


def _mix(values: np.ndarray, below: np.ndarray, step: int, share: np.ndarray, *, axis: int) -> np.ndarray:
    low = values.take(below, axis=axis)
    high = values.take(below + step, axis=axis)
    high -= low
    high *= share
    low += high
    return low
