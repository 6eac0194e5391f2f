"""Make a stack of slices even and rectangular: slices of a tilted gantry are shifted, uneven distances interpolated."""

import math
from typing import NamedTuple

import numpy as np
from scipy.ndimage import shift as shifted

# Differences that rounded positions explain.
STRAIGHT = 0.1  # pixels, and share of the distance between slices


class Stack(NamedTuple):
    """Where slices are; both are empty for an even, rectangular stack."""

    shift: tuple[tuple[float, float], ...]
    """Pixels along rows and columns from the first slice."""
    depth: tuple[float, ...]
    """Distance along the normal from the first slice, in mean distances."""


def is_straight(stack: Stack) -> bool:
    """Whether the slices are one behind the other at even distances, but for rounding."""
    shift, depth = np.array(stack.shift), np.array(stack.depth)
    return bool(abs(shift).max() < STRAIGHT and abs(depth - np.arange(len(depth))).max() < STRAIGHT)


def straightened_size(size: tuple[int, int, int], stack: Stack) -> tuple[tuple[int, int, int], np.ndarray]:
    """Return the size of the straightened stack, x first, and the x and y of its first voxel, in pixels."""
    x, y, z = size
    low, high = _extent(stack)
    columns, rows = (high - low).tolist()
    return (x + columns, y + rows, z), low


def straighten(volume: np.ndarray, stack: Stack) -> np.ndarray:
    """Shift and interpolate slices, linearly, so that they are one behind the other at even distances.

    Args:
        volume: Z Y X, of any number type.
        stack: where its slices are.

    Returns:
        float32 Z Y X of :func:`straightened_size`, outside of the slices the volume's least value; a stack that is
        straight is returned as it is.
    """
    if not stack.depth:
        return volume
    low, high = _extent(stack)
    columns, rows = (high - low).tolist()
    outside = float(volume.min())
    padding = ((0, rows), (0, columns))
    moved = np.empty((len(volume), volume.shape[1] + rows, volume.shape[2] + columns), np.float32)
    for one, (x, y), result in zip(volume, stack.shift, moved, strict=True):
        padded = np.pad(one.astype(np.float32), padding, constant_values=outside)
        shifted(padded, (y - low[1], x - low[0]), output=result, order=1, cval=outside)
    index = np.interp(np.arange(len(volume)), stack.depth, np.arange(len(volume)))
    below = np.minimum(index.astype(int), len(volume) - 2)
    share = (index - below).astype(np.float32)[:, None, None]
    return moved[below] * (1 - share) + moved[below + 1] * share


def _extent(stack: Stack) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and the largest shift along x and y, as whole pixels."""
    if not stack.shift:
        return np.zeros(2, int), np.zeros(2, int)
    pairs = list(zip(*stack.shift, strict=True))
    return np.array([math.floor(min(axis)) for axis in pairs]), np.array([math.ceil(max(axis)) for axis in pairs])
