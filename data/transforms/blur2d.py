"""Random Gaussian blur of images, as PIL's ImageFilter.GaussianBlur, which the published recipe used.

PIL approximates a Gaussian by three box blurs whose ends count in part, so that any σ can be had.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

PROBABILITY, SIGMA = 0.5, (0.1, 2.0)
PASSES = 3
# A box of σ ≤ 2 reaches two pixels.
BOX_REACH = 2
BITS = np.uint32(24)
ONE, HALF = 1 << 24, np.uint32(1 << 23)


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

    On a CPU image by image to PIL's numbers, in less time than PIL takes; on a GPU matrices do all images at once.
    """
    if images.device.type != "cpu":
        return blur_by_matrices(images, sigma)
    blurred = images.float()
    for i in sigma.nonzero().flatten().tolist():
        blurred.numpy()[i] = blur_by_boxes(images[i].numpy(), sigma[i].item())
    return blurred


def blur_by_matrices(images: Tensor, sigma: Tensor) -> Tensor:
    """As :func:`apply_blur`, but rounded once, where Pillow rounds to 8 bits after each of its six passes."""
    matrix = blur_matrix(sigma, images.shape[-1])
    return torch.bmm(torch.bmm(matrix, images.float()), matrix.transpose(1, 2)).round_()


class Box(NamedTuple):
    """One of the three box blurs in PIL's fixed point: weights with 24 bits behind the point."""

    radius: int
    """Pixels on each side of the centre that count in full."""
    within: np.uint32
    """Weight of the centre and of these."""
    ends: np.uint32
    """Weight of the pixel beyond them on each side."""


def box_of(sigma: float) -> Box:
    """The box of a σ in pixels, in PIL's float32 arithmetic, which decides the last bit of the weights."""
    f = np.float32
    variance = f(sigma) * f(sigma) / f(PASSES)
    whole = f(math.floor((f(math.sqrt(12 * float(variance) + 1)) - 1) / 2))
    reach = whole + (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    radius, within = int(reach), int(f(ONE) / (2 * reach + 1))
    return Box(radius, np.uint32(within), np.uint32((ONE - (2 * radius + 1) * within) // 2))


def blur_by_boxes(image: np.ndarray, sigma: float) -> np.ndarray:
    """uint8 H W to int32, by three boxes along the rows and three along the columns, each rounded to 8 bits.

    The image lies in a frame that the boxes' ends reach into, all of it in one line, so that an operation goes through
    memory without a stop. What runs over from one row into the next stays in the frame.
    """
    height, width = image.shape
    framed = np.empty((height + 2 * BOX_REACH, width + 2 * BOX_REACH), np.uint32)
    inner = framed[BOX_REACH:-BOX_REACH, BOX_REACH:-BOX_REACH]
    inner[:] = image
    box, line, margin = box_of(sigma), framed.reshape(-1), BOX_REACH * framed.shape[1]
    room = np.empty((2, len(line) - 2 * margin), np.uint32)
    for lines, step in ((framed.T, 1), (framed, framed.shape[1])):
        shifted = [
            line[margin + by * step : len(line) - margin + by * step] for by in range(-box.radius - 1, box.radius + 2)
        ]
        frame = [(lines[:BOX_REACH], lines[BOX_REACH]), (lines[-BOX_REACH:], lines[-BOX_REACH - 1])]
        for _ in range(PASSES):
            for beyond, border in frame:
                beyond[:] = border
            _box_blur(shifted, box, room)
    return inner.view(np.int32)


def _box_blur(shifted: list[np.ndarray], box: Box, room: np.ndarray) -> None:
    """The centre of the shifted lines becomes the weighted sum of all."""
    first, *full, last = shifted
    centre = full.pop(box.radius)
    within, ends = room
    total = centre
    for each in full:
        total = np.add(total, each, out=within)
    np.multiply(total, box.within, out=within)
    np.add(first, last, out=ends)
    ends *= box.ends
    within += ends
    within += HALF
    np.right_shift(within, BITS, out=centre)
