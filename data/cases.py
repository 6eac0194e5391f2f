"""One case of segmentation: its files to arrays, and what is cut out of them."""

import hashlib
import itertools
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from PIL import Image

from data.crops import HIGHEST, LOWEST
from data.images import LARGEST_PIXELS, read_grey, why_unread
from data.luna import UNREADABLE
from data.volumes import LARGEST_VOLUME, OUTSIDE, SPACING, read_header
from utils.atomic import whole_file
from utils.errors import UserError

MOST_LABELS = 256  # of a mask: it is kept as uint8
IMAGES = (".png", ".jpg", ".jpeg")
VOLUMES = (".nii", ".nii.gz", ".mhd", ".mha", ".npy")
# Half of the crops hold a voxel of some region, the others lie anywhere: a liver fills a few percent of a scan.
FOREGROUND_SHARE = 0.5


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
    paint: int
    """The value that a mask written by us gives it."""


class Reading(NamedTuple):
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


class Truth(NamedTuple):
    """The mask as it came, and where its voxels lie in the image that the network sees."""

    labels: np.ndarray
    """uint8, *N."""
    spacing: tuple[float, ...]
    """mm; 1 where the file knows none."""
    offset: tuple[float, ...]
    """Where the first voxel of each axis lies on *S, in voxels."""
    step: tuple[float, ...]
    """How far voxels are apart on *S, in voxels."""


def ending_of(path: Path) -> str:
    """``.nii.gz`` of ``a.b.nii.gz``, ``.png`` of ``a.b.PNG``."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()


def stem_of(path: Path) -> str:
    """The name without its ending."""
    return path.name[: len(path.name) - len(ending_of(path))]


def read_volume(path: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    """A volume and its spacing.

    Returns:
        Whole or floating point numbers, X Y Z, and mm (1 for ``.npy``, which knows none).

    Raises:
        UserError: the file is missing, damaged, absurdly large, not 3D, or holds values that are not finite.
    """
    if not path.is_file():
        raise UserError(f"expected a volume, there is no file {path}")
    array, spacing = _read_npy(path) if ending_of(path) == ".npy" else _read_itk(path)
    if array.dtype.kind not in "iufb" or array.ndim != 3 or not array.size:
        raise UserError(f"{path}: expected a volume of numbers with 3 dimensions, got {array.dtype} {array.shape}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UserError(f"{path}: holds values that are not finite")
    return array, spacing


def _read_npy(path: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    try:
        return np.load(path, allow_pickle=False), (SPACING,) * 3
    except UNREADABLE as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: expected an array, it is damaged or something else ({reason})") from None


def _read_itk(path: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    if ending_of(path) == ".mhd":
        read_header(path)
    try:
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1:
            raise UserError(
                f"{path}: expected a volume of one value a voxel, got {reader.GetDimension()} dimensions and "
                f"{reader.GetNumberOfComponents()} values"
            )
        if math.prod(reader.GetSize()) > LARGEST_VOLUME:
            raise UserError(f"{path}: expected up to {LARGEST_VOLUME} voxels, its header claims {reader.GetSize()}")
        image = reader.Execute()
    except RuntimeError as error:
        reason = str(error).strip().rpartition("\n")[2]
        raise UserError(f"{path}: expected a volume, it cannot be read ({reason})") from None
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), image.GetSpacing()


def read_mask_image(path: Path) -> np.ndarray:
    """The values of a PNG, H W, a palette's indices included.

    Raises:
        UserError: the file is missing, damaged, no PNG, in colour, or claims an absurd number of pixels.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.width * image.height > LARGEST_PIXELS:
                raise UserError(f"{path}: expected at most {LARGEST_PIXELS} pixels, its header claims {image.size}")
            if len(image.getbands()) != 1:
                raise UserError(f"{path}: expected a mask of one value a pixel, got {image.mode}")
            return np.array(image)
    except FileNotFoundError:
        raise UserError(f"expected a mask, there is no file {path}") from None
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: expected a PNG mask, it is damaged or something else{why_unread(error)}") from None


def read_mask(path: Path, dim: int) -> tuple[np.ndarray, tuple[float, ...]]:
    """A mask's values, uint8 *N, and its spacing in mm.

    Raises:
        UserError: the file cannot be read, or has other values than whole numbers from 0 to 255.
    """
    values, spacing = (read_mask_image(path), (1.0, 1.0)) if dim == 2 else read_volume(path)
    labels = values.astype(np.uint8)
    if not (labels == values).all():
        raise UserError(f"{path}: expected a mask of whole numbers from 0 to {MOST_LABELS - 1}")
    return labels, spacing


def read_case(case: Case, reading: Reading) -> tuple[Prepared, Truth]:
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
    whole = Truth(labels, spacing, (0.0,) * 3, (1.0,) * 3)
    return Prepared(image, low, high, labels), whole


def _prepare_image(image: np.ndarray, labels: np.ndarray, longest: int) -> tuple[Prepared, Truth]:
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
    return Prepared(small[None], zero, full, small_labels), Truth(labels, (1.0, 1.0), tuple(offset), tuple(step))


def _prepare_ct(
    image: np.ndarray, labels: np.ndarray, spacing: tuple[float, ...], size: tuple[int, ...]
) -> tuple[Prepared, Truth]:
    """To ``size`` voxels of 1 mm as :func:`data.volumes.load_resampled` does; the mask by its nearest voxel."""

    def resampled(array: np.ndarray, how: int, outside: int) -> np.ndarray:
        scan = sitk.GetImageFromArray(array.transpose(2, 1, 0))
        scan.SetSpacing(spacing)
        grid = (size, sitk.Transform(), how, (0.0,) * 3, (SPACING,) * 3, scan.GetDirection(), outside)
        kind = sitk.sitkUInt8 if how == sitk.sitkNearestNeighbor else sitk.sitkInt16
        return sitk.GetArrayFromImage(sitk.Resample(scan, *grid, kind)).transpose(2, 1, 0)

    channels = [resampled(channel, sitk.sitkLinear, OUTSIDE) for channel in image]
    low, high = (np.full(len(channels), hu, np.float32) for hu in (LOWEST, HIGHEST))
    prepared = Prepared(np.stack(channels), low, high, resampled(labels, sitk.sitkNearestNeighbor, 0))
    return prepared, Truth(labels, spacing, (0.0,) * 3, tuple(s / SPACING for s in spacing))


def scaled(image: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """C *S to float32 in 0..1; a channel of one value becomes 0."""
    low, high = (x.reshape(-1, *[1] * (image.ndim - 1)) for x in (low, high))
    span = np.where(high > low, high - low, np.float32(1))
    return (np.clip(image.astype(np.float32), low, high) - low) / span


def draw_start(labels: np.ndarray, crop: Sequence[int], rng: np.random.Generator) -> list[int]:
    """Where a crop begins: half of them anywhere, half so that some voxel of a region is anywhere in them."""
    room = [max(n - c, 0) for n, c in zip(labels.shape, crop, strict=True)]
    anywhere = rng.random() >= FOREGROUND_SHARE
    start = [int(rng.integers(r, endpoint=True)) for r in room]
    if anywhere or not room:
        return start
    inside = np.flatnonzero(labels)
    if not len(inside):
        return start
    voxel = np.unravel_index(int(inside[rng.integers(len(inside))]), labels.shape)
    return [min(max(int(v) - int(rng.integers(c)), 0), r) for v, c, r in zip(voxel, crop, room, strict=True)]


def cut_crop(prepared: Prepared, start: Sequence[int], crop: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(image float32 C *crop in 0..1, labels uint8 *crop); behind the end of a small image lies 0, and no region."""
    box = tuple(slice(s, s + c) for s, c in zip(start, crop, strict=True))
    image = scaled(prepared.image[(slice(None), *box)], prepared.low, prepared.high)
    labels = np.array(prepared.labels[box])
    missing = [(0, c - n) for c, n in zip(crop, labels.shape, strict=True)]
    return np.pad(image, [(0, 0), *missing]), np.pad(labels, missing)


class CaseCache:
    """Prepared cases in a folder, one file an array, made when first asked for and from then on mapped into memory.

    A crop then costs reading the crop, not decompressing and resampling its whole scan.

    Args:
        folder: where they lie.
        reading: how cases are read; another one, or another file, has other names here.
    """

    def __init__(self, folder: str | Path, reading: Reading) -> None:
        self.folder, self.reading = Path(folder), reading

    def file(self, case: Case, field: str) -> Path:
        """The file of one array of a case."""
        facts: list[object] = [tuple(self.reading)]
        for path in (*case.images, case.mask):
            try:
                status = path.stat()
            except OSError:
                raise UserError(f"expected a file of {case.name}, there is none at {path}") from None
            facts.append((str(path.resolve()), status.st_size, status.st_mtime_ns))
        digest = hashlib.blake2b(repr(facts).encode(), digest_size=12).hexdigest()
        return self.folder / f"{case.name.replace(os.sep, '_')}_{digest}_{field}.npy"

    def __call__(self, case: Case) -> Prepared:
        """The case; read and kept first where it is not there yet."""
        files = [self.file(case, field) for field in Prepared._fields]
        if not all(file.exists() for file in files):
            prepared, _ = read_case(case, self.reading)
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"--cache: cannot make {self.folder}: {error.strerror or error}") from error
            for path, array in zip(files, prepared, strict=True):
                with whole_file(path) as file:
                    np.save(file, array)
        try:
            return Prepared(*(np.load(file, mmap_mode="r") for file in files))
        except UNREADABLE as error:
            raise UserError(f"--cache: {files[0]} or one beside it is damaged ({error}); remove it") from None


def paint(chosen: np.ndarray, regions: Sequence[Region]) -> np.ndarray:
    """bool K *N to the mask that it means, uint8 *N; where regions overlap the later one is seen."""
    mask = np.zeros(chosen.shape[1:], dtype=np.uint8)
    for region, where in zip(regions, chosen, strict=True):
        mask[where] = region.paint
    return mask


def save_mask(folder: Path, case: Case, mask: np.ndarray) -> None:
    """``{name}.png`` or, with the geometry of the case's own mask, ``{name}.nii.gz``; whole or not at all.

    Raises:
        UserError: the folder cannot be written.
    """
    ending = ".png" if mask.ndim == 2 else ".nii.gz"
    path = folder / f"{case.name.replace(os.sep, '_')}{ending}"
    # SimpleITK chooses the format by the name, and writes to a path only.
    partial = path.with_name(f".partial.{path.name}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if mask.ndim == 2:
            Image.fromarray(mask).save(partial)
        else:
            sitk.WriteImage(_with_geometry(mask, case.mask), str(partial))
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        raise UserError(f"--save_masks: cannot write {path} ({str(error).strip().rpartition(chr(10))[2]})") from None


def _with_geometry(mask: np.ndarray, like: Path) -> sitk.Image:
    image = sitk.GetImageFromArray(mask.transpose(2, 1, 0))
    if ending_of(like) != ".npy":
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(like))
        reader.ReadImageInformation()
        image.SetSpacing(reader.GetSpacing())
        image.SetOrigin(reader.GetOrigin())
        image.SetDirection(reader.GetDirection())
    return image


def mask_values(masks: Sequence[Path], dim: int) -> list[int]:
    """All values above 0 of some masks."""
    found = (np.unique(read_mask(path, dim)[0]).tolist() for path in masks)
    return sorted(set(itertools.chain.from_iterable(found)) - {0})
