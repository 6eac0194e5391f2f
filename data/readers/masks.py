"""Reading of masks as integers from 0 to 255."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.readers.geometry import Geometry
from data.readers.images import exif_transpose, opened_image
from data.readers.volumes import read_volume
from utils.errors import UserError

MOST_LABELS = 256  # values of a mask, which is stored as uint8


def read_mask_image(path: Path) -> np.ndarray:
    """Read the values of a PNG, H W, oriented by its EXIF; those of a palette image are its indices.

    Raises:
        UserError: the file is missing, damaged, not a PNG, in colour, or claims an absurd number of pixels.
    """
    with opened_image(path, ("PNG",), "a mask", "a PNG mask") as image:
        if len(image.getbands()) != 1:
            raise UserError(f"{path}: expected a mask of one value a pixel, got {image.mode}")
        transpose = exif_transpose(image)
        return np.array(image if transpose is None else image.transpose(transpose))


def read_mask(path: Path, dim: int) -> tuple[np.ndarray, Geometry | None]:
    """Read a mask's values, uint8 *N, and its geometry; None in 2D and for files without one.

    Raises:
        UserError: the file cannot be read, or has values other than integers from 0 to 255.
    """
    values, grid = (read_mask_image(path), None) if dim == 2 else read_volume(path)
    labels = values.astype(np.uint8)
    if not (labels == values).all():
        raise UserError(f"{path}: expected a mask of whole numbers from 0 to {MOST_LABELS - 1}")
    return labels, grid


def mask_values(masks: Sequence[Path], dim: int) -> list[int]:
    """Return all values above 0 in masks."""
    found = (np.unique(read_mask(path, dim)[0]).tolist() for path in masks)
    return sorted(set(itertools.chain.from_iterable(found)) - {0})
