"""Where the voxels of a volume lie in the patient: in millimetres along left, posterior and superior (LPS)."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.errors import UserError

SPACING = 1.0  # mm, of what is resampled

# What a CT of a chest or a whole body can be. More would be a damaged header that asks for all memory.
LARGEST_SIDE = 10_000  # voxels
LARGEST_SPACING = 100.0  # mm
LARGEST_VOLUME = 2_000_000_000  # voxels of 1 mm
# Cosines in headers are rounded to a few digits; the scans that a tilted gantry shears are off by far more.
COSINE_TOLERANCE = 5e-3


class Geometry(NamedTuple):
    """A grid of voxels, x first."""

    size: tuple[int, int, int]
    """Voxels."""
    spacing: tuple[float, float, float]
    """mm."""
    origin: tuple[float, float, float]
    """mm: the middle of the first voxel."""
    direction: tuple[float, ...]
    """Nine cosines, row by row: column i points along the volume's axis i."""

    @property
    def size_resampled(self) -> tuple[int, int, int]:
        """Voxels of 1 mm, rounded half up as published."""
        x, y, z = (int(n * s / SPACING + 0.5) for n, s in zip(self.size, self.spacing, strict=True))
        return x, y, z

    @property
    def axes(self) -> np.ndarray:
        """float64 3 3: the direction as a matrix."""
        return np.array(self.direction).reshape(3, 3)

    def to_mm(self, voxel: Sequence[float] | np.ndarray) -> np.ndarray:
        """float64 3: where a voxel lies, in mm."""
        return np.array(self.origin) + self.axes @ (np.array(voxel) * self.spacing)

    def to_voxel(self, point: Sequence[float] | np.ndarray) -> np.ndarray:
        """float64 3: which voxel lies at a point in mm. Cosines are orthonormal: their inverse is their transpose."""
        return self.axes.T @ (np.array(point) - np.array(self.origin)) / self.spacing

    def __str__(self) -> str:
        spacing, origin, direction = (" ".join(f"{x:.6g}" for x in part) for part in self[1:])
        return f"spacing {spacing} mm, origin {origin} mm, direction {direction}"


class Turn(NamedTuple):
    """How a volume is turned so that its axes run as another's: a reordering, then flips."""

    order: tuple[int, ...]
    """Which of the stored axes becomes x, y and z."""
    flipped: tuple[bool, ...]
    """Which of x, y and z then run the other way."""

    def volume(self, values: np.ndarray) -> np.ndarray:
        """A view of a volume X Y Z."""
        return values.transpose(self.order)[tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)]

    def geometry(self, grid: Geometry) -> Geometry:
        """Of the turned volume."""
        order = list(self.order)
        sign = np.where(self.flipped, -1.0, 1.0)
        first = np.zeros(3)
        first[order] = np.where(self.flipped, np.array(grid.size)[order] - 1, 0)
        x, y, z = (grid.size[i] for i in order)
        sx, sy, sz = (grid.spacing[i] for i in order)
        ox, oy, oz = grid.to_mm(first).tolist() if any(self.flipped) else grid.origin
        return Geometry((x, y, z), (sx, sy, sz), (ox, oy, oz), tuple((grid.axes[:, order] * sign).ravel().tolist()))


def unit_grid(size: Sequence[int]) -> Geometry:
    """What is taken where a file knows no geometry: voxels of 1 mm."""
    x, y, z = size
    return Geometry((x, y, z), (SPACING,) * 3, (0.0,) * 3, tuple(np.eye(3).ravel().tolist()))


AS_STORED = Turn((0, 1, 2), (False, False, False))


def turn_to_lps(grid: Geometry) -> Turn:
    """The turn after which x, y and z run along left, posterior and superior, or as near to these as they come."""
    axes = grid.axes
    order = max(itertools.permutations(range(3)), key=lambda o: sum(abs(axes[i, o[i]]) for i in range(3)))
    return Turn(order, tuple(bool(axes[i, order[i]] < 0) for i in range(3)))


def require_spacing(path: Path, spacing: Sequence[float]) -> None:
    """Raises a UserError where voxels are no size that a scan has."""
    if not all(0 < s <= LARGEST_SPACING for s in spacing):
        raise UserError(f"{path}: expected a spacing above 0 to {LARGEST_SPACING:g} mm, got {tuple(spacing)}")


def require_geometry(path: Path, grid: Geometry) -> None:
    """Refuse what would fill the memory, and axes that stand at no right angle.

    Raises:
        UserError: the grid is no scan's.
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
