"""One case of segmentation: its files to arrays, and what is cut out of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from data.readers.geometry import SPACING, Geometry, unit_grid
from data.readers.images import read_grey
from data.readers.masks import read_mask
from data.readers.regrid import bring_onto
from data.readers.resample import resample_nearest
from data.readers.volumes import read_volume, require_hounsfield, resample_to_1mm
from data.transforms.hounsfield import HIGHEST, LOWEST
from utils.errors import UserError


class Case(NamedTuple):
    """One image with its mask."""

    name: str
    patient: str
    images: tuple[Path, ...]
    """One file a channel."""
    mask: Path


class Region(NamedTuple):
    """What one output of the network says."""

    name: str
    labels: tuple[int, ...]
    """The values of a mask that belong to it; regions may share some."""
    mask_value: int
    """The value that a mask written by us gives it."""


class ReadSpec(NamedTuple):
    """How the files of a data set become arrays."""

    dim: int
    known: tuple[int, ...]
    """The values that a mask may have."""
    hounsfield: bool = False
    """CT: resampled to 1 mm and scaled as for pre-training; else each channel from its least to its largest value."""
    max_side: int = 0
    """2D: images are shrunk so that no side is longer, in pixels; 0 for as they are."""


class Prepared(NamedTuple):
    """A case on the grid that the network sees, *S."""

    image: np.ndarray
    """C *S, as read; :func:`scaled` makes it 0..1."""
    low: np.ndarray
    """float32, C: what becomes 0."""
    high: np.ndarray
    """float32, C: what becomes 1."""
    labels: np.ndarray
    """uint8, *S."""


class ReferenceMask(NamedTuple):
    """The mask on the grid of the image's file, and where its voxels lie in the image that the network sees."""

    labels: np.ndarray
    """uint8, *N."""
    spacing: tuple[float, ...]
    """mm; 1 where the file knows none."""
    offset: tuple[float, ...]
    """Where the first voxel of each axis lies on *S, in voxels."""
    step: tuple[float, ...]
    """How far voxels are apart on *S, in voxels."""


def read_case(case: Case, reading: ReadSpec) -> tuple[Prepared, ReferenceMask]:
    """Everything of a case, from its files; masks and further channels on the grid of the first image.

    Raises:
        UserError: a file is missing or damaged; the mask has values that are none of this data set's; sizes differ, or
            files show different places in the patient; or what should be CT cannot be in Hounsfield units.
    """
    labels, mask_grid = read_mask(case.mask, reading.dim)
    unknown = np.setdiff1d(np.unique(labels), reading.known)
    if len(unknown):
        raise UserError(f"{case.mask}: expected labels of {list(reading.known)}, found {unknown.tolist()}")
    if reading.dim == 2:
        image = read_grey(case.images[0])
        _require_size(case.mask, labels, case.images[0], image)
        return _prepare_image(image, labels, reading.max_side)
    first, grid = read_volume(case.images[0])

    def beside(path: Path, values: np.ndarray, own: Geometry | None, *, nearest: bool) -> np.ndarray:
        kind = "a mask" if nearest else "a channel"
        values = bring_onto(grid, values, own, path=path, image=case.images[0], kind=kind, nearest=nearest)
        _require_size(path, values, case.images[0], first, kind)
        return values

    channels = [first, *(beside(path, *read_volume(path), nearest=False) for path in case.images[1:])]
    labels = beside(case.mask, labels, mask_grid, nearest=True)
    grid = grid or mask_grid or unit_grid(first.shape)
    if reading.hounsfield:
        for path, channel in zip(case.images, channels, strict=True):
            require_hounsfield(path, channel)
        return _prepare_ct(channels, labels, grid)
    image = np.stack(channels)
    low, high = (f(image, axis=(1, 2, 3)).astype(np.float32) for f in (np.min, np.max))
    whole = ReferenceMask(labels, grid.spacing, (0.0,) * 3, (1.0,) * 3)
    return Prepared(image, low, high, labels), whole


def _require_size(path: Path, values: np.ndarray, image: Path, first: np.ndarray, kind: str = "a mask") -> None:
    if values.shape != first.shape:
        raise UserError(f"{path}: expected {kind} of the size of {image}, {first.shape}, got {values.shape}")


def _prepare_image(image: np.ndarray, labels: np.ndarray, max_side: int) -> tuple[Prepared, ReferenceMask]:
    factor = max_side / max(image.shape) if max_side and max_side < max(image.shape) else 1.0
    small, small_labels = image, labels
    if factor < 1:
        height, width = (max(1, round(n * factor)) for n in image.shape)
        small = np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
        small_labels = np.array(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))
    step = [s / n for s, n in zip(small.shape, image.shape, strict=True)]
    # Both grids have the same borders, so the middles of their first pixels differ.
    offset = [(s - 1) / 2 for s in step]
    zero, full = np.zeros(1, np.float32), np.full(1, 255, np.float32)
    return Prepared(small[None], zero, full, small_labels), ReferenceMask(
        labels, (1.0, 1.0), tuple(offset), tuple(step)
    )


def _prepare_ct(channels: Sequence[np.ndarray], labels: np.ndarray, grid: Geometry) -> tuple[Prepared, ReferenceMask]:
    """To 1 mm as :func:`data.readers.volumes.load_resampled` does; the mask by its nearest voxel."""
    step = tuple(s / SPACING for s in grid.spacing)
    image = np.stack([resample_to_1mm(channel, grid) for channel in channels])
    low, high = (np.full(len(channels), hu, np.float32) for hu in (LOWEST, HIGHEST))
    prepared = Prepared(image, low, high, resample_nearest(labels, step, grid.size_resampled))
    return prepared, ReferenceMask(labels, grid.spacing, (0.0,) * 3, step)


def scaled(image: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """C *S to float32 in 0..1; a channel of one value becomes 0."""
    low, high = (x.reshape(-1, *[1] * (image.ndim - 1)) for x in (low, high))
    span = np.where(high > low, high - low, np.float32(1))
    return (np.clip(image.astype(np.float32), low, high) - low) / span
