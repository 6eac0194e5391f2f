"""Pictures of predicted masks: their borders in colour on the image."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import binary_erosion

from utils.atomic import whole_file

# Colours that people with colour blindness can tell apart (Okabe and Ito, 2008).
COLOURS = ((213, 94, 0), (86, 180, 233), (240, 228, 66), (0, 158, 115), (204, 121, 167), (230, 159, 0), (0, 114, 178))


def draw_borders(image: np.ndarray, masks: Sequence[np.ndarray]) -> Image.Image:
    """Draw the borders of masks, bool K H W, on a grey image, H W in 0..1; colours repeat after seven regions."""
    picture = np.repeat((np.clip(image, 0, 1) * 255).astype(np.uint8)[..., None], 3, axis=2)
    for number, mask in enumerate(masks):
        picture[mask & ~binary_erosion(mask)] = COLOURS[number % len(COLOURS)]
    return Image.fromarray(picture)


def save_borders(path: Path, image: np.ndarray, masks: Sequence[np.ndarray]) -> None:
    """Write the picture of :func:`draw_borders` as PNG.

    Raises:
        UserError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        draw_borders(image, masks).save(file, format="PNG")
