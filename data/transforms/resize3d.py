"""Resize small volumes, equal to skimage.transform.resize with order 1 and Gaussian antialiasing."""

from functools import lru_cache

import numpy as np

# scipy.ndimage.gaussian_filter, which skimage uses, cuts the kernel at 4 σ.
TRUNCATE = 4.0


@lru_cache(maxsize=4096)
def resize_matrix(n_in: int, n_out: int) -> np.ndarray:
    """float32 n_out n_in: weight of each input voxel for each output voxel along one axis.

    If the axis shrinks by a factor f, a Gaussian of σ = (f − 1)/2 voxels is applied first; then values are interpolated
    linearly between voxel centres. For both, the axis is mirrored about the centre of its outermost voxel.
    """
    factor = n_in / n_out
    identity = np.eye(n_in)
    blurred = _gaussian(n_in, (factor - 1) / 2) if factor > 1 else identity
    position = (np.arange(n_out) + 0.5) * factor - 0.5
    below = np.floor(position).astype(int)
    fraction = (position - below)[:, None]
    rows = (1 - fraction) * blurred[_mirror(below, n_in)] + fraction * blurred[_mirror(below + 1, n_in)]
    return rows.astype(np.float32)


def _gaussian(n: int, sigma: float) -> np.ndarray:
    radius = int(TRUNCATE * sigma + 0.5)
    taps = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (taps / sigma) ** 2)
    kernel /= kernel.sum()
    matrix = np.zeros((n, n))
    for tap, weight in zip(taps, kernel, strict=True):
        np.add.at(matrix, (np.arange(n), _mirror(np.arange(n) + tap, n)), weight)
    return matrix


def _mirror(index: np.ndarray, n: int) -> np.ndarray:
    """Mirror indices beyond the border as scipy's ``'mirror'``: d c b | a b c d | c b a."""
    if n == 1:
        return np.zeros_like(index)
    index = index % (2 * n - 2)
    return np.minimum(index, 2 * n - 2 - index)


def resize(volume: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Resize a float32 volume X Y Z to ``shape``, one axis after the other; fastest if x is contiguous in memory."""
    x, y, z = (resize_matrix(n_in, n_out) for n_in, n_out in zip(volume.shape, shape, strict=True))
    depth, height, width = (n_in != n_out for n_in, n_out in zip(volume.shape[::-1], shape[::-1], strict=True))
    zyx = volume.transpose(2, 1, 0)
    if depth:
        zyx = np.tensordot(z, zyx, axes=1)
    if height:
        zyx = np.matmul(y, zyx)
    if width:
        zyx = zyx @ x.T
    return zyx.transpose(2, 1, 0)
