"""Random brightness and contrast of grey images, as torchvision's ColorJitter on PIL images.

The recipe also jitters saturation and hue and turns images grey with probability 0.2. On a grey image these change no
number; what is left of them is that brightness and contrast come in either order alike.
"""

from typing import NamedTuple

import torch
from torch import Tensor

STRENGTH = 0.4


class Jitter(NamedTuple):
    """Parameters of N images."""

    brightness: Tensor
    """N: factor; 0 is black, 1 the image as it is."""
    contrast: Tensor
    """N: factor; 0 is the mean's grey, 1 the image as it is."""
    contrast_first: Tensor
    """N, bool."""


def draw_jitter(n: int, generator: torch.Generator) -> Jitter:
    """Factors U(0.6, 1.4), and the order of the two with even odds."""
    draws = torch.rand(3, n, generator=generator, device=generator.device)
    factors = 1 - STRENGTH + 2 * STRENGTH * draws[:2]
    return Jitter(factors[0], factors[1], draws[2] < 0.5)


def apply_jitter(images: Tensor, params: Jitter) -> Tensor:
    """float N S S of whole numbers 0..255, changed in place and returned; cut to whole numbers as by PIL's blend."""
    first, second = params.contrast_first, ~params.contrast_first
    for is_contrast in (first, second):
        # Both are a blend with a plain image: the mean's grey, or black.
        plain = (torch.floor(images.mean(dim=(1, 2)) + 0.5) * is_contrast).view(-1, 1, 1)
        factor = torch.where(is_contrast, params.contrast, params.brightness).view(-1, 1, 1)
        # addcmul would be one operation less, but walks two factors that are broadcast without SIMD on a CPU.
        images.sub_(plain).mul_(factor).add_(plain).clamp_(0, 255).floor_()
    return images
