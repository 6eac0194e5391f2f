"""Random Gaussian blur of volumes, as TorchIO's RandomBlur: scipy.ndimage.gaussian_filter with a σ per axis."""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from data.transforms.affine3d import uniform
from utils.constants import constant

LARGEST_SIGMA = 2.0  # voxels
# scipy cuts the kernel at 4 σ.
TRUNCATE = 4.0
MAX_RADIUS = int(TRUNCATE * LARGEST_SIGMA + 0.5)
TAPS = tuple(range(-MAX_RADIUS, MAX_RADIUS + 1))


def draw_blur(n: int, generator: torch.Generator) -> Tensor:
    """Draw σ U(0, 2) in voxels for each of N volumes and each axis, N 3."""
    return uniform((n, 3), 0.0, LARGEST_SIGMA, generator)


def gaussian_kernels(sigma: Tensor) -> Tensor:
    """Weights of 17 voxels around each for each σ (N 3, voxels), float64 N 3 17; the radius is scipy's, int(4σ + ½)."""
    sigma = sigma.double().unsqueeze(2)
    taps, distances = (constant(values, sigma.device, torch.float64) for values in (TAPS, [abs(tap) for tap in TAPS]))
    radius = torch.floor(TRUNCATE * sigma + 0.5)
    kernels = torch.exp(-0.5 * (taps / sigma.clamp(min=1e-6)) ** 2) * (distances <= radius)
    return kernels.div_(kernels.sum(dim=2, keepdim=True))


@cache
def shift_matrices(length: int, device: torch.device) -> Tensor:
    """17 length·length, float64: matrices that move voxels by −8 to 8, made once; beyond the border they are reflected.

    The reflection is scipy's ``'reflect'`` (d c b a | a b c d | d c b a).
    """
    source = (torch.arange(length) + torch.tensor(TAPS).view(-1, 1)) % (2 * length)
    source = torch.minimum(source, 2 * length - 1 - source)
    return (source.unsqueeze(2) == torch.arange(length)).double().flatten(1).to(device)


def blur_matrices(sigma: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Filter matrices along x, y and z for σ (N 3, voxels) of N volumes of ``shape`` (X Y Z), N length length each.

    Row i has the weights of the input voxels for output voxel i.
    """
    kernels = gaussian_kernels(sigma)
    x, y, z = (
        (kernels[:, axis] @ shift_matrices(length, sigma.device)).float().view(-1, length, length)
        for axis, length in enumerate(shape)
    )
    return x, y, z


def blur_by(volumes: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Blur N X Y Z by the matrices of :func:`blur_matrices`."""
    n, x, y, z = volumes.shape
    along_x, along_y, along_z = matrices
    volumes = torch.bmm(along_x, volumes.reshape(n, x, y * z)).view(n, x, y, z)
    volumes = along_y.unsqueeze(1) @ volumes
    return (volumes.reshape(n, x * y, z) @ along_z.transpose(1, 2)).view(n, x, y, z)


def apply_blur(volumes: Tensor, sigma: Tensor) -> Tensor:
    """Blur N X Y Z along each axis by its own σ (N 3, voxels)."""
    return blur_by(volumes, blur_matrices(sigma, volumes.shape[1:]))
