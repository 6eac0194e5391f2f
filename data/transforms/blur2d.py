"""Random Gaussian blur of images, as PIL's ImageFilter.GaussianBlur in the published recipe.

PIL approximates a Gaussian by three box blurs with fractional weights at the ends, so that σ is continuous.
"""

import torch
from torch import Tensor

from data.transforms.box_blur import BOX_REACH, PASSES, blur_on_cpu

PROBABILITY, SIGMA = 0.5, (0.1, 2.0)


def draw_blur(n: int, generator: torch.Generator) -> Tensor:
    """Draw N σ in pixels: U(0.1, 2) with probability ½, otherwise 0."""
    sigma = torch.rand(n, generator=generator, device=generator.device) * (SIGMA[1] - SIGMA[0]) + SIGMA[0]
    return sigma * (torch.rand(n, generator=generator, device=generator.device) < PROBABILITY)


def box_kernel(sigma: Tensor) -> Tensor:
    """Weights of one of the three box blurs for each σ (N), N 5: equal within the radius, fractional at each end."""
    variance = (sigma.double() ** 2 / PASSES).view(-1, 1)
    whole = torch.floor((torch.sqrt(12 * variance + 1) - 1) / 2)
    ends = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    distance = torch.arange(-BOX_REACH, BOX_REACH + 1, device=sigma.device).abs()
    weights = (distance <= whole) + ends * (distance == whole + 1)
    return weights / weights.sum(dim=1, keepdim=True)


def blur_matrix(sigma: Tensor, size: int) -> Tensor:
    """Matrices of three box blurs along one axis for each σ (N), N size size; border pixels are replicated in each."""
    kernel = box_kernel(sigma).float()
    row = torch.arange(size, device=sigma.device)
    matrix = torch.eye(size, device=sigma.device).expand(len(sigma), -1, -1)
    for _ in range(PASSES):
        shifted = [matrix.index_select(1, (row + k).clamp(0, size - 1)) for k in range(-BOX_REACH, BOX_REACH + 1)]
        blurred = torch.zeros_like(shifted[0])
        for weight, rows in zip(kernel.unbind(1), shifted, strict=True):
            blurred.addcmul_(rows, weight.view(-1, 1, 1))
        matrix = blurred
    return matrix


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
