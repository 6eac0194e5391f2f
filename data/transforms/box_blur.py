"""PIL's Gaussian blur of one image on a CPU: the same pixel values in half the time.

PIL approximates a Gaussian by three box blurs with fractional end weights, done here by NumPy's array operations.
"""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from utils.plain import plain

PASSES = 3
# Pixels on each side that a box blur of σ ≤ 2 reads.
BOX_REACH = 2
BITS = np.uint32(24)
ONE, HALF = 1 << 24, np.uint32(1 << 23)


def blur_on_cpu(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blur uint8 H W by σ ≤ 2 in pixels and round; returns H W."""
    if plain():
        return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))
    return blur_by_boxes(image, sigma)


class Box(NamedTuple):
    """One of the three box blurs in PIL's fixed-point arithmetic: weights with 24 fractional bits."""

    radius: int
    """Pixels on each side of the centre with full weight."""
    within: np.uint32
    """Weight of the pixels within the radius."""
    ends: np.uint32
    """Weight of the next pixel on each side."""


def box_of(sigma: float) -> Box:
    """Compute the box of a σ in pixels in float32 as PIL does, so that the weights agree to the last bit."""
    f = np.float32
    variance = f(sigma) * f(sigma) / f(PASSES)
    whole = f(math.floor((f(math.sqrt(12 * float(variance) + 1)) - 1) / 2))
    reach = whole + (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    radius, within = int(reach), int(f(ONE) / (2 * reach + 1))
    return Box(radius, np.uint32(within), np.uint32((ONE - (2 * radius + 1) * within) // 2))


def blur_by_boxes(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blur uint8 H W by three boxes along the rows and three along the columns, each rounded to 8 bits; int32 H W.

    The image is padded by the width of the boxes and processed as one flat array, so that memory is read in order.
    Values that run over from one row into the next affect the padding only.
    """
    height, width = image.shape
    framed = np.empty((height + 2 * BOX_REACH, width + 2 * BOX_REACH), np.uint32)
    inner = framed[BOX_REACH:-BOX_REACH, BOX_REACH:-BOX_REACH]
    inner[:] = image
    box, line, margin = box_of(sigma), framed.reshape(-1), BOX_REACH * framed.shape[1]
    buffers = np.empty((2, len(line) - 2 * margin), np.uint32)
    for lines, step in ((framed.T, 1), (framed, framed.shape[1])):
        shifted = [
            line[margin + by * step : len(line) - margin + by * step] for by in range(-box.radius - 1, box.radius + 2)
        ]
        frame = [(lines[:BOX_REACH], lines[BOX_REACH]), (lines[-BOX_REACH:], lines[-BOX_REACH - 1])]
        for _ in range(PASSES):
            for beyond, border in frame:
                beyond[:] = border
            _box_blur(shifted, box, buffers)
    return inner.view(np.int32)


def _box_blur(shifted: list[np.ndarray], box: Box, buffers: np.ndarray) -> None:
    """Replace the unshifted line by the weighted sum of all shifted lines; ``buffers`` holds intermediate results."""
    first, *full, last = shifted
    centre = full.pop(box.radius)
    within, ends = buffers
    total = centre
    for each in full:
        total = np.add(total, each, out=within)
    np.multiply(total, box.within, out=within)
    np.add(first, last, out=ends)
    ends *= box.ends
    within += ends
    within += HALF
    np.right_shift(within, BITS, out=centre)
