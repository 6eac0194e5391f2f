"""One case of segmentation: its files to arrays, and what is cut out of them."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from PIL import Image

from data.readers.images import read_grey
from data.readers.masks import read_mask
from data.readers.volumes import LARGEST_VOLUME, OUTSIDE, SPACING, read_volume
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
    longest: int = 0
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
    """The mask as it came, and where its voxels lie in the image that the network sees."""

    labels: np.ndarray
    """uint8, *N."""
    spacing: tuple[float, ...]
    """mm; 1 where the file knows none."""
    offset: tuple[float, ...]
    """Where the first voxel of each axis lies on *S, in voxels."""
    step: tuple[float, ...]
    """How far voxels are apart on *S, in voxels."""


def read_case(case: Case, reading: ReadSpec) -> tuple[Prepared, ReferenceMask]:
    """Everything of a case, from its files.

    Raises:
        UserError: a file is missing or damaged, sizes differ, or the mask has values that are none of this data set's.
    """
    labels, spacing = read_mask(case.mask, reading.dim)
    unknown = np.setdiff1d(np.unique(labels), reading.known)
    if len(unknown):
        raise UserError(f"{case.mask}: expected labels of {list(reading.known)}, found {unknown.tolist()}")
    channels = []
    for path in case.images:
        array, spacing = (read_grey(path), (1.0, 1.0)) if reading.dim == 2 else read_volume(path)
        if array.shape != labels.shape:
            raise UserError(f"{case.mask}: expected a mask of the size of {path}, {array.shape}, got {labels.shape}")
        channels.append(array)
    if reading.dim == 2:
        return _prepare_image(channels[0], labels, reading.longest)
    image = np.stack(channels)
    if reading.hounsfield:
        size = tuple(int(n * s / SPACING + 0.5) for n, s in zip(labels.shape, spacing, strict=True))
        if not 1 <= math.prod(size) <= LARGEST_VOLUME:
            raise UserError(f"{path}: expected up to {LARGEST_VOLUME} voxels at {SPACING:g} mm, got {size}")
        return _prepare_ct(image, labels, spacing, size)
    low, high = (f(image, axis=(1, 2, 3)).astype(np.float32) for f in (np.min, np.max))
    whole = ReferenceMask(labels, spacing, (0.0,) * 3, (1.0,) * 3)
    return Prepared(image, low, high, labels), whole


def _prepare_image(image: np.ndarray, labels: np.ndarray, longest: int) -> tuple[Prepared, ReferenceMask]:
    factor = longest / max(image.shape) if longest and longest < max(image.shape) else 1.0
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


def _prepare_ct(
    image: np.ndarray, labels: np.ndarray, spacing: tuple[float, ...], size: tuple[int, ...]
) -> tuple[Prepared, ReferenceMask]:
    """To ``size`` voxels of 1 mm as :func:`data.readers.volumes.load_resampled` does; the mask by its nearest voxel."""

    def resampled(array: np.ndarray, how: int, outside: int) -> np.ndarray:
        scan = sitk.GetImageFromArray(array.transpose(2, 1, 0))
        scan.SetSpacing(spacing)
        grid = (size, sitk.Transform(), how, (0.0,) * 3, (SPACING,) * 3, scan.GetDirection(), outside)
        kind = sitk.sitkUInt8 if how == sitk.sitkNearestNeighbor else sitk.sitkInt16
        return sitk.GetArrayFromImage(sitk.Resample(scan, *grid, kind)).transpose(2, 1, 0)

    channels = [resampled(channel, sitk.sitkLinear, OUTSIDE) for channel in image]
    low, high = (np.full(len(channels), hu, np.float32) for hu in (LOWEST, HIGHEST))
    prepared = Prepared(np.stack(channels), low, high, resampled(labels, sitk.sitkNearestNeighbor, 0))
    return prepared, ReferenceMask(labels, spacing, (0.0,) * 3, tuple(s / SPACING for s in spacing))


def scaled(image: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """C *S to float32 in 0..1; a channel of one value becomes 0."""
    low, high = (x.reshape(-1, *[1] * (image.ndim - 1)) for x in (low, high))
    span = np.where(high > low, high - low, np.float32(1))
    return (np.clip(image.astype(np.float32), low, high) - low) / span
