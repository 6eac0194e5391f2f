"""Masks: one file to whole numbers from 0 to 255."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.readers.geometry import Geometry
from data.readers.images import opened_image, turn_of
from data.readers.volumes import read_volume
from utils.errors import UserError

MOST_LABELS = 256  # of a mask: it is kept as uint8


def read_mask_image(path: Path) -> np.ndarray:
    """The values of a PNG, H W, a palette's indices included, turned as its EXIF says.

    Raises:
        UserError: the file is missing, damaged, no PNG, in colour, or claims an absurd number of pixels.
    """
    with opened_image(path, ("PNG",), "a mask", "a PNG mask") as image:
        if len(image.getbands()) != 1:
            raise UserError(f"{path}: expected a mask of one value a pixel, got {image.mode}")
        turn = turn_of(image)
        return np.array(image if turn is None else image.transpose(turn))


def read_mask(path: Path, dim: int) -> tuple[np.ndarray, Geometry | None]:
    """A mask's values, uint8 *N, and where it lies in the patient; None in 2D, and where the file does not say.

    Raises:
        UserError: the file cannot be read, or has other values than whole numbers from 0 to 255.
    """
    values, grid = (read_mask_image(path), None) if dim == 2 else read_volume(path)
    labels = values.astype(np.uint8)
    if not (labels == values).all():
        raise UserError(f"{path}: expected a mask of whole numbers from 0 to {MOST_LABELS - 1}")
    return labels, grid


def mask_values(masks: Sequence[Path], dim: int) -> list[int]:
    """All values above 0 of some masks."""
    found = (np.unique(read_mask(path, dim)[0]).tolist() for path in masks)
    return sorted(set(itertools.chain.from_iterable(found)) - {0})
