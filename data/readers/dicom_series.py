"""DICOM series: single slices, ordered to a volume by their positions in the patient."""

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from data.readers.dicom_tags import COLUMNS, FRAMES, PATIENT_ID, ROWS, SAMPLES, DicomFile, open_dicom, read_pixels
from data.readers.geometry import Geometry, require_geometry, require_spacing
from data.readers.straighten import Stack, is_straight, straighten, straightened_size
from utils.errors import UserError

SERIES_UID, INSTANCE_UID = "0020|000e", "0008|0018"
POSITION, ORIENTATION, PIXEL_SPACING = "0020|0032", "0020|0037", "0028|0030"
IMAGE_TYPE, MODALITY = "0008|0008", "0008|0060"
OVERVIEWS = ("LOCALIZER", "SCOUT")  # values of the image type
# In what the volumes of one series may differ: acquisition, echo, time, phase of the heart, b-value, image type.
MARKS = ("0020|0012", "0018|0086", "0020|0100", "0018|1060", "0018|9087", IMAGE_TYPE)
VOLUMES = ("CT", "MR", "PT")  # modalities whose files of several frames are volumes

DECIMALS = 6  # to which distances between slices and cosines are rounded, since positions are decimal text
# Slices of one volume: how much distances between neighbours may differ. A missing slice doubles one.
LARGEST_GAP = 1.5  # times the smallest distance
SAME_PLACE = 1e-3  # mm


class NotASlice(UserError):
    """A DICOM file that is no slice of a volume, so that it is left out."""

    def __init__(self, kind: str, reason: str = "") -> None:
        super().__init__(kind)
        self.kind, self.reason = kind, reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return NotASlice, (self.kind, self.reason)


class Slice(NamedTuple):
    """The header of a slice."""

    path: Path
    series: tuple[str, str]
    """Patient ID and UID of the series."""
    instance: str
    """UID of the image, the same in copies of a file."""
    size: tuple[int, int]
    """Columns and rows."""
    spacing: tuple[float, float]
    """mm along a row and along a column."""
    orientation: tuple[float, ...]
    """Six cosines: the directions of a row and of a column."""
    position: tuple[float, ...]
    """mm: the centre of the first pixel."""
    marks: tuple[str, ...]
    """The values of MARKS, empty where there are none."""

    @property
    def grid(self) -> tuple[object, ...]:
        """What the slices of one volume have in common; cosines may be rounded differently."""
        return self.size, self.spacing, tuple(round(cosine, 3) + 0.0 for cosine in self.orientation)


class DicomSeries(NamedTuple):
    """The slices of a volume, in order; the volume is made even and rectangular if they are not."""

    folder: Path
    """The folder that contains all its files."""
    uid: str
    """Of the series, followed by the number of the volume where it has several."""
    files: tuple[Path, ...]
    stack: Stack
    geometry: Geometry
    """Of the volume."""

    def __str__(self) -> str:
        return f"{self.folder}: series {self.uid}"


def read_slice(path: Path) -> Slice:
    """Read the header of a slice.

    Raises:
        NotASlice: the file is not an image, a localizer, or an image without a position in the patient.
        UserError: it holds a whole volume, or its position is damaged.
    """
    try:
        file = open_dicom(path)
    except UserError as error:
        raise NotASlice("files that cannot be read as DICOM images", str(error)) from None
    if any(kind in file.text(IMAGE_TYPE).upper().split("\\") for kind in OVERVIEWS):
        raise NotASlice("localizers")
    if file.number(SAMPLES, 1) > 1:
        raise NotASlice("images in colour")
    if file.number(FRAMES, 1) > 1:
        if file.text(MODALITY) not in VOLUMES:
            raise NotASlice("images of several frames that are no CT, MR or PET")
        raise UserError(f"{path}: expected one slice a file, it has several frames; convert it, e.g. with dcm2niix")
    if not all(map(file.text, (POSITION, ORIENTATION, PIXEL_SPACING, SERIES_UID))):
        raise NotASlice("images without a position in the patient")
    between_rows, between_columns = _numbers(file, PIXEL_SPACING, 2)
    require_spacing(path, (between_columns, between_rows))
    return Slice(
        path, (file.text(PATIENT_ID), file.text(SERIES_UID)), file.text(INSTANCE_UID),
        (int(file.number(COLUMNS, 0)), int(file.number(ROWS, 0))), (between_columns, between_rows),
        _numbers(file, ORIENTATION, 6), _numbers(file, POSITION, 3), tuple(map(file.text, MARKS)),
    )  # fmt: skip


def _numbers(file: DicomFile, tag: str, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(word) for word in file.text(tag).split("\\"))
    except ValueError:
        numbers = ()
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        name = tag.replace("|", ",")
        raise UserError(f"{file.path}: expected {count} numbers as the attribute ({name}), got {file.text(tag)!r}")
    return numbers


def volumes_of(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Return the slices of each volume of a series, such as its echoes or times, in order of what they differ in.

    Slices are of several volumes if some are in one place, and by the first of MARKS by which none are.
    """
    if _one_a_place(slices):
        return [list(slices)] if slices else []
    for which in range(len(MARKS)):
        volumes = defaultdict[str, list[Slice]](list)
        for one in slices:
            volumes[one.marks[which]].append(one)
        if all(len(volume) > 1 and _one_a_place(volume) for volume in volumes.values()):
            return [volumes[mark] for mark in sorted(volumes, key=_in_order)]
    return [list(slices)]


def _one_a_place(slices: Sequence[Slice]) -> bool:
    return len({one.position for one in slices}) == len(slices)


def _in_order(mark: str) -> tuple[float, str]:
    """Sort numbers by their values."""
    try:
        return float(mark), mark
    except ValueError:
        return math.inf, mark


def arrange(slices: Sequence[Slice], folder: Path, number: int | None = None) -> DicomSeries:
    """Order the slices of a series to a volume, by their positions along its normal.

    Slices that are shifted against each other, as with a tilted gantry, and distances that differ a little are
    evened out by :func:`data.readers.straighten.straighten` when the volume is read.

    Args:
        slices: two or more.
        folder: the folder that contains all of them.
        number: of the volume, if the series has several.

    Raises:
        UserError: slices are missing or in one place, or differ in size, spacing or orientation.
    """
    first, uid = slices[0], slices[0].series[1] + ("" if number is None else f"_{number}")
    grids = len({one.grid for one in slices})
    if grids > 1:
        raise _refused(folder, uid, f"slices of one size, spacing and orientation, it has {grids} different ones")
    axes = np.array(first.orientation).reshape(2, 3)
    normal = np.cross(*axes)
    depths = np.array([one.position for one in slices]) @ normal
    order = np.argsort(depths, kind="stable")
    positions, depths = np.array([slices[i].position for i in order]), depths[order] - depths[order[0]]
    step = _step(folder, uid, depths, positions)
    # Where the slices would be without the tilt, and how far each is off, in pixels.
    shift = ((positions - positions[0]) @ axes.T / first.spacing).round(DECIMALS)
    stack = Stack(tuple(map(tuple, shift.tolist())), tuple((depths / step).tolist()))
    stack = Stack((), ()) if is_straight(stack) else stack
    size, moved = straightened_size((*first.size, len(slices)), stack)
    origin = positions[0] + (moved * first.spacing) @ axes
    direction = np.stack([*axes, normal], axis=1).ravel()
    geometry = Geometry(size, (*first.spacing, step), _triple(origin), tuple(direction.tolist()))
    require_geometry(folder, geometry)
    return DicomSeries(folder, uid, tuple(slices[i].path for i in order), stack, geometry)


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = values.tolist()
    return x, y, z


def _step(folder: Path, uid: str, depths: np.ndarray, positions: np.ndarray) -> float:
    """Return the distance between slices, mm."""
    steps = np.diff(depths)
    if (steps < SAME_PLACE).any():
        count = int((steps < SAME_PLACE).sum())
        raise _refused(
            folder, uid, f"one slice in one place, {count} are where another one is (several times or echoes?)"
        )
    if steps.max() > LARGEST_GAP * steps.min():
        after = positions[int(steps.argmax())].round(3).tolist()
        apart = f"{steps.min():.6g} to {steps.max():.6g} mm"
        raise _refused(folder, uid, f"even distances, slices are {apart} apart: some are missing after {after} mm")
    return round(float(depths[-1] / len(steps)), DECIMALS)


def _refused(folder: Path, uid: str, expected: str) -> UserError:
    return UserError(
        f"{folder}: series {uid}: expected {expected}; add or remove files, or convert it, e.g. by dcm2niix"
    )


def read_series(series: DicomSeries) -> sitk.Image:
    """Read the voxels of a series, after their rescale, along its :attr:`DicomSeries.geometry`.

    Raises:
        UserError: a file is missing, damaged or cut short, or not the one whose header was read.
    """
    volume = np.empty((len(series.files), 0, 0), np.int8)
    for i, path in enumerate(series.files):
        pixels = sitk.GetArrayFromImage(read_pixels(open_dicom(path)))[0]
        if i == 0:
            volume = np.empty((len(series.files), *pixels.shape), pixels.dtype)
        if pixels.shape != volume.shape[1:]:
            raise UserError(f"{path}: expected a slice of {volume.shape[1:]}, as the first one, got {pixels.shape}")
        # Slices may have different rescales, as in PET, and only some of them fractions.
        volume = volume.astype(np.result_type(volume, pixels), copy=False)
        volume[i] = pixels
    return sitk.GetImageFromArray(straighten(volume, series.stack))
