"""Random rotation and horizontal flip of square images, by PIL or equal to it in every pixel."""

import math
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from utils.constants import constant

DEGREES = 10.0
# Bits after the point in PIL's arithmetic.
FRACTION = 16


class Rotation(NamedTuple):
    """Rotation and flip of N images."""

    degrees: Tensor
    """N, float64, counter-clockwise."""
    flip: Tensor
    """N, bool; done after the rotation."""


def draw_rotation(n: int, generator: torch.Generator) -> Rotation:
    """Draw a rotation U(±10°) and a flip with probability ½ for each of N images."""
    degrees = torch.rand(n, generator=generator, device=generator.device).double() * (2 * DEGREES) - DEGREES
    return Rotation(degrees, torch.rand(n, generator=generator, device=generator.device) < 0.5)


def apply_rotation(images: Tensor, params: Rotation) -> Tensor:
    """Rotate uint8 N S S about the centre (nearest neighbour, black outside), then flip.

    On a CPU, Pillow rotates each image, several times as fast as a gather; on a GPU, one gather rotates all images.
    """
    if images.device.type != "cpu":
        return rotate_by_gather(images, params)
    rotated_images = torch.empty_like(images)
    for image, result, degrees, flip in zip(
        images.numpy(), rotated_images.numpy(), params.degrees.tolist(), params.flip.tolist(), strict=True
    ):
        rotated = np.asarray(Image.fromarray(image).rotate(degrees))
        result[:] = rotated[:, ::-1] if flip else rotated
    return rotated_images


def rotate_by_gather(images: Tensor, params: Rotation) -> Tensor:
    """As :func:`apply_rotation`.

    Positions are computed in 16.16 fixed-point arithmetic as in PIL's Image.rotate, so that no pixel differs.
    """
    n, size = images.shape[0], images.shape[-1]
    cos, sin, x0, y0 = _fixed_point_map(params.degrees, size)
    along = torch.arange(size, device=images.device, dtype=torch.int32)
    down = along.view(1, -1, 1)
    across = torch.where(params.flip.view(-1, 1, 1), size - 1 - along, along)
    x = torch.addcmul(x0 + down * sin, across, cos) >> FRACTION
    y = torch.addcmul(y0 + down * cos, across, sin, value=-1) >> FRACTION
    # Of two numbers one is negative where their bits combined are.
    inside = ((x | y) >= 0) & (torch.maximum(x, y) < size)
    index = torch.add(x, y, alpha=size).clamp_(0, size * size - 1)
    index += torch.arange(0, n * size * size, size * size, device=images.device, dtype=torch.int32).view(-1, 1, 1)
    return images.reshape(-1).index_select(0, index.view(-1)).view_as(images) * inside


def _fixed_point_map(degrees: Tensor, size: int) -> Tensor:
    """4 N 1 1, int32 with 16 fractional bits: cosine, sine, and the position in the input of the first output pixel."""
    radians = degrees * (-math.pi / 180)
    cos, sin = torch.cos(radians), torch.sin(radians)
    # The first pixel's centre, and that of the image: size/2 − (size − 1)/2 · (cos + sin), and with cos − sin.
    one, half, centre = 1 << FRACTION, (size - 1) / 2 * (1 << FRACTION), size / 2 * (1 << FRACTION)
    factors, terms = (
        constant(values, degrees.device, torch.float64).view(4, 1)
        for values in ((one, one, -half, -half), (0.5, 0.5, centre + 0.5, centre + 0.5))
    )
    fixed = torch.stack([cos, sin, cos + sin, cos - sin]).mul_(factors).add_(terms)
    return fixed.floor_().to(torch.int32).view(4, -1, 1, 1)
