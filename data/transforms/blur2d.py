"""Random Gaussian blur of images, as PIL's ImageFilter.GaussianBlur, which the published recipe used.

PIL approximates a Gaussian by three box blurs whose ends count in part, so that any σ can be had.
"""

import torch
from torch import Tensor

from data.transforms.box_blur import BOX_REACH, PASSES, blur_on_cpu

PROBABILITY, SIGMA = 0.5, (0.1, 2.0)


def draw_blur(n: int, generator: torch.Generator) -> Tensor:
    """N: σ U(0.1, 2) in pixels with probability ½, else 0."""
    sigma = torch.rand(n, generator=generator, device=generator.device) * (SIGMA[1] - SIGMA[0]) + SIGMA[0]
    return sigma * (torch.rand(n, generator=generator, device=generator.device) < PROBABILITY)


def box_kernel(sigma: Tensor) -> Tensor:
    """N to N 5: one of the three box blurs: whole weights within the radius, a part of one at each end."""
    variance = (sigma.double() ** 2 / PASSES).view(-1, 1)
    whole = torch.floor((torch.sqrt(12 * variance + 1) - 1) / 2)
    ends = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    distance = torch.arange(-BOX_REACH, BOX_REACH + 1, device=sigma.device).abs()
    weights = (distance <= whole) + ends * (distance == whole + 1)
    return weights / weights.sum(dim=1, keepdim=True)


def blur_matrix(sigma: Tensor, size: int) -> Tensor:
    """N to N size size: three box blurs along one axis; in each, the pixel at the border goes on beyond it."""
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
    """uint8 N S S to float32, each image blurred by its σ in pixels and rounded.

    On a CPU image by image to PIL's numbers; on a GPU matrices do all images at once.
    """
    if images.device.type != "cpu":
        return blur_by_matrices(images, sigma)
    blurred = images.float()
    for i in sigma.nonzero().flatten().tolist():
        blurred.numpy()[i] = blur_on_cpu(images[i].numpy(), sigma[i].item())
    return blurred


def blur_by_matrices(images: Tensor, sigma: Tensor) -> Tensor:
    """As :func:`apply_blur`, but rounded once, where Pillow rounds to 8 bits after each of its six passes."""
    matrix = blur_matrix(sigma, images.shape[-1])
    return torch.bmm(torch.bmm(matrix, images.float()), matrix.transpose(1, 2)).round_()
