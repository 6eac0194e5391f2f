"""Random Gaussian blur of volumes, as TorchIO's RandomBlur: scipy.ndimage.gaussian_filter with a σ per axis."""

from collections.abc import Sequence

import torch
from torch import Tensor

from data.transforms.affine3d import uniform

LARGEST_SIGMA = 2.0  # voxels
# scipy cuts the kernel at 4 σ.
TRUNCATE = 4.0


def draw_blur(n: int, generator: torch.Generator) -> Tensor:
    """Draw σ U(0, 2) in voxels for each of N volumes and each axis, N 3."""
    return uniform((n, 3), 0.0, LARGEST_SIGMA, generator)


def blur_matrix(sigma: Tensor, length: int) -> Tensor:
    """Filter matrices along one axis for each σ (N, voxels), N length length; they include reflection at the border.

    Row i has the weights of the input voxels for output voxel i. The reflection is scipy's ``'reflect'``
    (d c b a | a b c d | d c b a); the kernel's radius is int(4σ + ½).
    """
    sigma = sigma.double().view(-1, 1)
    max_radius = int(TRUNCATE * LARGEST_SIGMA + 0.5)
    taps = torch.arange(-max_radius, max_radius + 1, device=sigma.device)
    radius = torch.floor(TRUNCATE * sigma + 0.5)
    kernel = torch.exp(-0.5 * (taps / sigma.clamp(min=1e-6)) ** 2) * (taps.abs() <= radius)
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    source = torch.arange(length, device=sigma.device).view(-1, 1) + taps
    source = source % (2 * length)
    source = torch.minimum(source, 2 * length - 1 - source)
    matrix = torch.zeros(len(sigma), length, length, device=sigma.device, dtype=kernel.dtype)
    n = len(sigma)
    return matrix.scatter_add_(
        2, source.expand(n, -1, -1), kernel.unsqueeze(1).expand(-1, length, -1).contiguous()
    ).float()


def blur_matrices(sigma: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Filter matrices along x, y and z for σ (N 3, voxels) of N volumes of ``shape`` (X Y Z)."""
    x, y, z = (blur_matrix(sigma[:, axis], length) for axis, length in enumerate(shape))
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
