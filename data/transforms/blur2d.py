"""Random Gaussian blur of images, as PIL's ImageFilter.GaussianBlur in the published recipe.

PIL approximates a Gaussian by three box blurs with fractional weights at the ends, so that σ is continuous.
"""

from functools import cache, reduce

import torch
from torch import Tensor

from data.transforms.box_blur import BOX_REACH, PASSES, blur_on_cpu
from utils.constants import constant

PROBABILITY, SIGMA = 0.5, (0.1, 2.0)


def draw_blur(n: int, generator: torch.Generator) -> Tensor:
    """Draw N σ in pixels: U(0.1, 2) with probability ½, otherwise 0."""
    sigma = torch.rand(n, generator=generator, device=generator.device) * (SIGMA[1] - SIGMA[0]) + SIGMA[0]
    return sigma * (torch.rand(n, generator=generator, device=generator.device) < PROBABILITY)


def box_kernel(sigma: Tensor) -> Tensor:
    """Weights of one of the three box blurs for each σ (N), N 5: equal within the radius, fractional at each end.

    This is PIL's formula with σ² = 3 variances, see :func:`data.transforms.box_blur.box_of`.
    """
    square = sigma.square().view(-1, 1)
    whole = torch.floor(torch.sqrt(square + 0.25) - 0.5)
    next_one = whole + 1
    ends = (whole + 0.5) * (whole * next_one - square) / torch.sub(square, next_one.square(), alpha=3)
    # 1 within the radius, the fraction at the next pixel, 0 beyond.
    weights = (next_one + ends - _distances(sigma.device)).clamp_(0, 1)
    return weights.div_(weights.sum(dim=1, keepdim=True))


def _distances(device: torch.device) -> Tensor:
    return constant([abs(k) for k in range(-BOX_REACH, BOX_REACH + 1)], device)


@cache
def shift_matrices(size: int, device: torch.device) -> Tensor:
    """5 size·size: matrices that move the pixels by −2 to 2, with the border pixels replicated; made once."""
    row = torch.arange(size)
    moved = torch.stack([(row + k).clamp(0, size - 1) for k in range(-BOX_REACH, BOX_REACH + 1)])
    return (moved.unsqueeze(2) == row).float().flatten(1).to(device)


def blur_matrix(sigma: Tensor, size: int) -> Tensor:
    """Matrices of three box blurs along one axis for each σ (N), N size size; border pixels are replicated in each."""
    once = (box_kernel(sigma) @ shift_matrices(size, sigma.device)).view(-1, size, size)
    return reduce(torch.bmm, [once] * PASSES)


def apply_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image of uint8 N S S by its σ (N, pixels) and round; returns float32 N S S.

    On a CPU, images are blurred one by one and equal PIL's; on a GPU, matrices blur all images at once.
    """
    if images.device.type != "cpu":
        return blur_by_matrices(images, sigma)
    blurred = images.float()
    for i in sigma.nonzero().flatten().tolist():
        blurred.numpy()[i] = blur_on_cpu(images[i].numpy(), sigma[i].item())
    return blurred


def blur_by_matrices(images: Tensor, sigma: Tensor) -> Tensor:
    """As :func:`apply_blur`, but rounded only once, whereas Pillow rounds to 8 bits after each of its six passes."""
    matrix = blur_matrix(sigma, images.shape[-1])
    return torch.bmm(torch.bmm(matrix, images.float()), matrix.transpose(1, 2)).round_()
