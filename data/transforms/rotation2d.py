"""Random rotation and horizontal flip of square images, by PIL or equal to it in every pixel."""

import math
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

DEGREES = 10.0


class Rotation(NamedTuple):
    """Rotation and flip of N images."""

    degrees: Tensor
    """N, float64, counter-clockwise."""
    flip: Tensor
    """N, bool; done after the rotation."""


def draw_rotation(n: int, generator: torch.Generator) -> Rotation:
    """Draw a rotation U(±10°) and a flip with probability ½ for each of N images."""
    degrees = torch.rand(n, generator=generator, device=generator.device).double() * 2 * DEGREES - DEGREES
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
    angle = -params.degrees * (math.pi / 180)
    cos, sin = torch.cos(angle), torch.sin(angle)
    centre = size / 2
    x0 = centre - centre * cos - centre * sin + 0.5 * (cos + sin)
    y0 = centre + centre * sin - centre * cos + 0.5 * (cos - sin)
    cos, sin, x0, y0 = (_fixed_point(v).view(-1, 1, 1) for v in (cos, sin, x0, y0))

    along = torch.arange(size, device=images.device, dtype=torch.int32)
    down = along.view(1, -1, 1)
    flip = params.flip.view(-1, 1, 1)
    across = torch.where(flip, along.flip(0), along)
    x = (across * cos + x0 + down * sin) >> 16
    y = (down * cos + y0 - across * sin) >> 16
    inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)
    index = (y * size + x).clamp_(0, size * size - 1)
    index += torch.arange(n, device=images.device, dtype=torch.int32).view(-1, 1, 1) * (size * size)
    return images.reshape(-1).index_select(0, index.view(-1)).view_as(images) * inside


def _fixed_point(value: Tensor) -> Tensor:
    return torch.floor(value * 65536 + 0.5).to(torch.int32)
