"""The voxel grid of a made-up CT, and functions that draw on it: balls, tubes as rows of balls, smooth noise."""

from typing import NamedTuple

import numpy as np


class Grid(NamedTuple):
    """Body coordinates of voxel centres: ``x`` 1 1 X, ``y`` 1 Y 1, ``z`` Z 1 1, float32 mm; spacing for x, y, z."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    spacing: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X)."""
        return self.z.size, self.y.size, self.x.size

    @property
    def first(self) -> np.ndarray:
        """Body coordinates of voxel 0 (x, y, z), mm."""
        return np.array([self.x.flat[0], self.y.flat[0], self.z.flat[0]], dtype=np.float64)

    def points(self, indices: np.ndarray) -> np.ndarray:
        """Convert flat voxel indices (N) to body coordinates (N 3: x, y, z), mm."""
        z, y, x = np.unravel_index(indices, self.shape)
        return self.first + np.stack([x, y, z], axis=-1) * self.spacing

    def distance2(self, point: np.ndarray) -> np.ndarray:
        """Squared distance of every voxel from a point in body coordinates: Z Y X, mm²."""
        return (self.x - point[0]) ** 2 + (self.y - point[1]) ** 2 + (self.z - point[2]) ** 2


def draw_balls(coverage: np.ndarray, grid: Grid, centres: np.ndarray, radius: float) -> None:
    """Raise ``coverage`` (float32 Z Y X, 0..1) to the share of each voxel inside balls around ``centres`` (N 3, mm)."""
    half = np.ceil(radius / grid.spacing).astype(int) + 1
    offsets = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in half), indexing="ij"), axis=-1).reshape(-1, 3)
    voxels = np.rint((centres - grid.first) / grid.spacing).astype(int)[:, None] + offsets
    distance = np.linalg.norm(grid.first + voxels * grid.spacing - centres[:, None], axis=-1)
    edge = float(grid.spacing.mean())
    # A ball thinner than a voxel fills no voxel, so that the contrast of a thin vessel falls with its width.
    filled = ((radius - distance) / edge + 0.5).clip(0, 1) * min(1.0, 2 * radius / edge)
    keep = ((voxels >= 0) & (voxels < coverage.shape[::-1])).all(-1) & (filled > 0)
    x, y, z = voxels[keep].T
    np.maximum.at(coverage, (z, y, x), filled[keep].astype(np.float32))


def is_within(grid: Grid, mask: np.ndarray, centre: np.ndarray, radius: float) -> bool:
    """Whether a ball (mm) is inside the grid and ``mask`` (bool Z Y X) is True in all of its voxels."""
    low = np.floor((centre - radius - grid.first) / grid.spacing).astype(int)
    high = np.ceil((centre + radius - grid.first) / grid.spacing).astype(int) + 1
    if (low < 0).any() or (high > mask.shape[::-1]).any():
        return False
    box = tuple(slice(a, b) for a, b in zip(low[::-1], high[::-1], strict=True))
    subgrid = Grid(grid.x[..., box[2]], grid.y[:, box[1]], grid.z[box[0]], grid.spacing)
    return bool(mask[box][subgrid.distance2(centre) <= radius**2].all())


def walk(start: np.ndarray, end: np.ndarray, step: float) -> np.ndarray:
    """Evenly spaced points (N 3) from start to end, at most ``step`` mm apart."""
    n = int(np.linalg.norm(end - start) / step) + 2
    return start + (end - start) * np.linspace(0, 1, n)[:, None]


def blend(hu: np.ndarray, coverage: np.ndarray, value: float) -> None:
    """Mix ``value`` (HU) into ``hu`` in place, weighted by ``coverage`` (0..1)."""
    hu += coverage * (np.float32(value) - hu)


def clouds(rng: np.random.Generator, shape: tuple[int, ...], strength: float) -> np.ndarray:
    """Smooth noise, float32: normal random numbers about 8 voxels apart, linearly interpolated."""
    noise = rng.standard_normal([n // 8 + 2 for n in shape], dtype=np.float32) * np.float32(strength)
    for axis, n in enumerate(shape):
        # Axis by axis, several times as fast as ndimage.zoom.
        positions = np.linspace(0, noise.shape[axis] - 1, n, dtype=np.float32)
        low = np.minimum(positions.astype(int), noise.shape[axis] - 2)
        fraction = (positions - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(len(shape))])
        below = noise.take(low, axis)
        noise = below + fraction * (noise.take(low + 1, axis) - below)
    return noise
