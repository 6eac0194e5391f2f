"""Reading of a segmentation case: its files to arrays."""

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
from data.readers.volumes import Source, read_volume, require_hounsfield, resample_volume
from data.transforms.hounsfield import HIGHEST, LOWEST
from utils.errors import UserError


class Case(NamedTuple):
    """One image with its mask."""

    name: str
    patient: str
    images: tuple[Source, ...]
    """One file, or DICOM series, a channel."""
    mask: Path | None
    """None for an image to predict; its labels are then 0."""


class Region(NamedTuple):
    """What one output of the network segments."""

    name: str
    labels: tuple[int, ...]
    """The values of a mask that belong to it; regions may overlap."""
    mask_value: int
    """Its value in masks that are written."""


class ReadSpec(NamedTuple):
    """How the files of a data set become arrays."""

    dim: int
    known: tuple[int, ...]
    """The values that a mask may have."""
    hounsfield: bool = False
    """CT: resampled to 1 mm and scaled as for pre-training; else each channel from its least to its largest value."""
    max_side: int = 0
    """2D: longest side in pixels to which larger images are shrunk; 0 to keep their size."""


class Prepared(NamedTuple):
    """A case on the grid that the network sees, *S."""

    image: np.ndarray
    """C *S, as read; :func:`scaled` scales it to 0..1."""
    low: np.ndarray
    """float32, C: the value that is scaled to 0."""
    high: np.ndarray
    """float32, C: the value that is scaled to 1."""
    labels: np.ndarray
    """uint8, *S."""


class ReferenceMask(NamedTuple):
    """The mask on the grid of the image's file, and the position of its voxels in the image that the network sees."""

    labels: np.ndarray
    """uint8, *N."""
    spacing: tuple[float, ...]
    """mm; 1 if the file has none."""
    offset: tuple[float, ...]
    """Position of the first voxel along each axis of *S, in voxels."""
    step: tuple[float, ...]
    """Distance between voxels along each axis of *S, in voxels."""


def read_case(case: Case, reading: ReadSpec) -> tuple[Prepared, ReferenceMask]:
    """Read a case; its mask and further channels are resampled to the grid of its first image if needed.

    Raises:
        UserError: a file is missing or damaged; the mask has values that the data set does not; sizes or positions in
            the patient differ; or a CT cannot be in Hounsfield units.
    """
    labels, mask_grid = _read_labels(case.mask, reading) if case.mask else (None, None)
    if reading.dim == 2:
        image = read_grey(str(case.images[0]))
        labels = np.zeros(image.shape, np.uint8) if labels is None else labels
        _require_size(case.mask, labels, case.images[0], image)
        return _prepare_image(image, labels, reading.max_side)
    first, grid = read_volume(case.images[0])

    def on_first_grid(path: Source, values: np.ndarray, own: Geometry | None, *, nearest: bool) -> np.ndarray:
        kind = "a mask" if nearest else "a channel"
        values = bring_onto(grid, values, own, path=path, image=case.images[0], kind=kind, nearest=nearest)
        _require_size(path, values, case.images[0], first, kind)
        return values

    channels = [first, *(on_first_grid(path, *read_volume(path), nearest=False) for path in case.images[1:])]
    if case.mask is None or labels is None:
        labels = np.zeros(first.shape, np.uint8)
    else:
        labels = on_first_grid(case.mask, labels, mask_grid, nearest=True)
    grid = grid or mask_grid or unit_grid(first.shape)
    if reading.hounsfield:
        for path, channel in zip(case.images, channels, strict=True):
            require_hounsfield(path, channel)
        return _prepare_ct(channels, labels, grid)
    image = np.stack(channels)
    low, high = (f(image, axis=(1, 2, 3)).astype(np.float32) for f in (np.min, np.max))
    whole = ReferenceMask(labels, grid.spacing, (0.0,) * 3, (1.0,) * 3)
    return Prepared(image, low, high, labels), whole


def _read_labels(mask: Path, reading: ReadSpec) -> tuple[np.ndarray, Geometry | None]:
    labels, grid = read_mask(mask, reading.dim)
    unknown = np.setdiff1d(np.unique(labels), reading.known)
    if len(unknown):
        raise UserError(f"{mask}: expected labels of {list(reading.known)}, found {unknown.tolist()}")
    return labels, grid


def _require_size(
    path: Source | None, values: np.ndarray, image: Source, first: np.ndarray, kind: str = "a mask"
) -> None:
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
    # Both grids have the same borders, so the centres of their first pixels differ.
    offset = [(s - 1) / 2 for s in step]
    zero, full = np.zeros(1, np.float32), np.full(1, 255, np.float32)
    return Prepared(small[None], zero, full, small_labels), ReferenceMask(
        labels, (1.0, 1.0), tuple(offset), tuple(step)
    )


def _prepare_ct(channels: Sequence[np.ndarray], labels: np.ndarray, grid: Geometry) -> tuple[Prepared, ReferenceMask]:
    """Resample to 1 mm as :func:`data.readers.volumes.load_resampled`; the mask by nearest neighbour."""
    step = tuple(s / SPACING for s in grid.spacing)
    image = np.stack([resample_volume(channel, grid) for channel in channels])
    low, high = (np.full(len(channels), hu, np.float32) for hu in (LOWEST, HIGHEST))
    prepared = Prepared(image, low, high, resample_nearest(labels, step, grid.size_resampled))
    return prepared, ReferenceMask(labels, grid.spacing, (0.0,) * 3, step)


def scaled(image: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Scale C *S to float32 in 0..1; a channel of one value becomes 0."""
    low, high = (x.reshape(-1, *[1] * (image.ndim - 1)) for x in (low, high))
    span = np.where(high > low, high - low, np.float32(1))
    return (np.clip(image.astype(np.float32), low, high) - low) / span
