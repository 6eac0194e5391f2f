"""The central crop of an image that evaluation uses."""

import torch.nn.functional as F
from torch import Tensor

# Evaluation resizes the shorter side to 256 and crops the central 224.
MARGIN = 256 / 224


def central_square(pixels: Tensor, side: int) -> Tensor:
    """Resize the shorter side of uint8 1 H W to 256/224 ``side`` (bilinear, antialias); crop its centre, side²."""
    shorter = round(side * MARGIN)
    height, width = pixels.shape[1:]
    scale = shorter / min(height, width)
    size = (
        (shorter, max(shorter, int(width * scale))) if height <= width else (max(shorter, int(height * scale)), shorter)
    )
    resized = F.interpolate(pixels.unsqueeze(0), size=size, mode="bilinear", antialias=True)[0]
    top, left = round((size[0] - side) / 2), round((size[1] - side) / 2)
    return resized[:, top : top + side, left : left + side]
