"""Geometry of volumes: positions of voxels in the patient, in mm along left, posterior and superior (LPS)."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.errors import UserError

SPACING = 1.0  # mm, of resampled volumes

# Limits that no CT of a chest or a whole body exceeds; a damaged header may claim more than the memory holds.
LARGEST_SIDE = 10_000  # voxels
LARGEST_SPACING = 100.0  # mm
LARGEST_VOLUME = 2_000_000_000  # voxels of 1 mm
# Cosines in headers are rounded to a few digits; scans that are sheared by a tilted gantry differ by far more.
COSINE_TOLERANCE = 5e-3


class Geometry(NamedTuple):
    """A grid of voxels, x first."""

    size: tuple[int, int, int]
    """Voxels."""
    spacing: tuple[float, float, float]
    """mm."""
    origin: tuple[float, float, float]
    """mm: the centre of the first voxel."""
    direction: tuple[float, ...]
    """Nine cosines, row by row: column i points along the volume's axis i."""

    @property
    def size_resampled(self) -> tuple[int, int, int]:
        """Voxels of 1 mm, rounded half up as published."""
        return self.size_at(SPACING)

    def size_at(self, spacing: float) -> tuple[int, int, int]:
        """Voxels of another spacing, mm, rounded half up as published."""
        x, y, z = (int(n * s / spacing + 0.5) for n, s in zip(self.size, self.spacing, strict=True))
        return x, y, z

    @property
    def axes(self) -> np.ndarray:
        """float64 3 3: the direction as a matrix."""
        return np.array(self.direction).reshape(3, 3)

    def to_mm(self, voxel: Sequence[float] | np.ndarray) -> np.ndarray:
        """Return the position of a voxel in mm, float64 3."""
        return np.array(self.origin) + self.axes @ (np.array(voxel) * self.spacing)

    def to_voxel(self, point: Sequence[float] | np.ndarray) -> np.ndarray:
        """Return the voxel coordinates of a point in mm, float64 3."""
        # The direction is orthonormal: its inverse is its transpose.
        return self.axes.T @ (np.array(point) - np.array(self.origin)) / self.spacing

    def __str__(self) -> str:
        spacing, origin, direction = (" ".join(f"{x:.6g}" for x in part) for part in self[1:])
        return f"spacing {spacing} mm, origin {origin} mm, direction {direction}"


class Reorientation(NamedTuple):
    """A permutation of a volume's axes, followed by flips."""

    order: tuple[int, ...]
    """The stored axes that become x, y and z."""
    flipped: tuple[bool, ...]
    """Which of x, y and z are then reversed."""

    def volume(self, values: np.ndarray) -> np.ndarray:
        """Return a reoriented view of a volume X Y Z."""
        return values.transpose(self.order)[tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)]

    def geometry(self, grid: Geometry) -> Geometry:
        """Return the geometry of the reoriented volume."""
        order = list(self.order)
        sign = np.where(self.flipped, -1.0, 1.0)
        first = np.zeros(3)
        first[order] = np.where(self.flipped, np.array(grid.size)[order] - 1, 0)
        x, y, z = (grid.size[i] for i in order)
        sx, sy, sz = (grid.spacing[i] for i in order)
        ox, oy, oz = grid.to_mm(first).tolist() if any(self.flipped) else grid.origin
        return Geometry((x, y, z), (sx, sy, sz), (ox, oy, oz), tuple((grid.axes[:, order] * sign).ravel().tolist()))


def unit_grid(size: Sequence[int]) -> Geometry:
    """Return the geometry assumed for files without one: voxels of 1 mm."""
    x, y, z = size
    return Geometry((x, y, z), (SPACING,) * 3, (0.0,) * 3, tuple(np.eye(3).ravel().tolist()))


AS_STORED = Reorientation((0, 1, 2), (False, False, False))


def reorient_to_lps(grid: Geometry) -> Reorientation:
    """Return the reorientation after which x, y and z are closest to left, posterior and superior."""
    axes = grid.axes
    order = max(itertools.permutations(range(3)), key=lambda o: sum(abs(axes[i, o[i]]) for i in range(3)))
    return Reorientation(order, tuple(bool(axes[i, order[i]] < 0) for i in range(3)))


def require_spacing(path: Path, spacing: Sequence[float]) -> None:
    """Raise a UserError unless the spacing is one that scans have."""
    if not all(0 < s <= LARGEST_SPACING for s in spacing):
        raise UserError(f"{path}: expected a spacing above 0 to {LARGEST_SPACING:g} mm, got {tuple(spacing)}")


def require_geometry(path: Path, grid: Geometry) -> None:
    """Refuse grids that would not fit into memory, and axes that are not at right angles.

    Raises:
        UserError: the grid is not one of a scan.
    """
    require_spacing(path, grid.spacing)
    for size, what in ((grid.size_resampled, f"voxels at {SPACING:g} mm"), (grid.size, "voxels")):
        if not 1 <= math.prod(size) <= LARGEST_VOLUME:
            raise UserError(f"{path}: expected up to {LARGEST_VOLUME} {what}, its header claims {size}")
    if not np.isfinite([*grid.origin, *grid.direction]).all():
        raise UserError(f"{path}: expected finite numbers as its origin and direction, got {grid}")
    if np.abs(grid.axes.T @ grid.axes - np.eye(3)).max() > COSINE_TOLERANCE:
        raise UserError(
            f"{path}: expected axes at right angles, its direction is {grid.direction}; resample it to such axes"
        )
