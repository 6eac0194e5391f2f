"""Random Gaussian blur of volumes, as TorchIO's RandomBlur: scipy.ndimage.gaussian_filter with a σ per axis."""

from collections.abc import Sequence

import torch
from torch import Tensor

from data.transforms.affine3d import uniform

LARGEST_SIGMA = 2.0
# scipy cuts the kernel at 4 σ.
TRUNCATE = 4.0


def draw_blur(n: int, generator: torch.Generator) -> Tensor:
    """N 3: σ U(0, 2) in voxels, per volume and axis."""
    return uniform((n, 3), 0.0, LARGEST_SIGMA, generator)


def blur_matrix(sigma: Tensor, length: int) -> Tensor:
    """N to N length length: the filter along one axis as a matrix, the border's reflection folded in.

    Row i holds the weights of the voxels that output voxel i is made of. The reflection is scipy's ``'reflect'``
    (d c b a | a b c d | d c b a); the kernel's radius is int(4σ + ½).
    """
    sigma = sigma.double().view(-1, 1)
    reach = int(TRUNCATE * LARGEST_SIGMA + 0.5)
    taps = torch.arange(-reach, reach + 1, device=sigma.device)
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
    """N 3, in voxels, to the filters of N volumes of ``shape`` (X Y Z) along their three axes."""
    x, y, z = (blur_matrix(sigma[:, axis], length) for axis, length in enumerate(shape))
    return x, y, z


def blur_by(volumes: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """N X Y Z, blurred by what :func:`blur_matrices` gives."""
    n, x, y, z = volumes.shape
    along_x, along_y, along_z = matrices
    volumes = torch.bmm(along_x, volumes.reshape(n, x, y * z)).view(n, x, y, z)
    volumes = along_y.unsqueeze(1) @ volumes
    return (volumes.reshape(n, x * y, z) @ along_z.transpose(1, 2)).view(n, x, y, z)


def apply_blur(volumes: Tensor, sigma: Tensor) -> Tensor:
    """N X Y Z, blurred along each axis by its own σ (N 3, voxels)."""
    return blur_by(volumes, blur_matrices(sigma, volumes.shape[1:]))
