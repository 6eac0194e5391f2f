"""Random brightness and contrast of grey images, as torchvision's ColorJitter on PIL images.

The published recipe also jitters saturation and hue and converts images to grey with probability 0.2. These operations
do not change a grey image, so that only the random order of brightness and contrast remains.
"""

from typing import NamedTuple

import torch
from torch import Tensor

STRENGTH = 0.4


class Jitter(NamedTuple):
    """Jitter parameters of N images."""

    brightness: Tensor
    """N: factor; 0 gives black, 1 the unchanged image."""
    contrast: Tensor
    """N: factor; 0 gives the mean grey everywhere, 1 the unchanged image."""
    contrast_first: Tensor
    """N, bool: whether contrast is applied before brightness."""


def draw_jitter(n: int, generator: torch.Generator) -> Jitter:
    """Draw factors U(0.6, 1.4) and, with probability ½ each, the order of the two operations for N images."""
    draws = torch.rand(3, n, generator=generator, device=generator.device)
    factors = 1 - STRENGTH + 2 * STRENGTH * draws[:2]
    return Jitter(factors[0], factors[1], draws[2] < 0.5)


def apply_jitter(images: Tensor, params: Jitter) -> Tensor:
    """Jitter float N S S of whole numbers 0..255 in place; results are truncated to whole numbers as by PIL's blend."""
    first, second = params.contrast_first, ~params.contrast_first
    for is_contrast in (first, second):
        # Both operations blend the image with a constant: its mean grey, or black.
        constant = (torch.floor(images.mean(dim=(1, 2)) + 0.5) * is_contrast).view(-1, 1, 1)
        factor = torch.where(is_contrast, params.contrast, params.brightness).view(-1, 1, 1)
        # addcmul would need one operation less, but is not vectorised on a CPU for two broadcast operands.
        images.sub_(constant).mul_(factor).add_(constant).clamp_(0, 255).floor_()
    return images
