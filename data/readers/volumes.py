"""CT scans in MetaImage files (``.mhd`` and ``.raw``), resampled to voxels of 1 mm."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from data.readers.arrays import UNREADABLE
from data.readers.file_names import ending_of
from data.readers.resample import resample
from utils.errors import UserError

VOLUMES = (".nii", ".nii.gz", ".mhd", ".mha", ".npy")


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


SPACING = 1.0  # mm
OUTSIDE = 0  # HU, where the resampled grid leaves the scan

# What a CT of a chest or a whole body can be. More would be a damaged header that asks for all memory.
LARGEST_HEADER = 1 << 16  # bytes
LARGEST_SIDE = 10_000  # voxels
LARGEST_SPACING = 100.0  # mm
LARGEST_VOLUME = 2_000_000_000  # voxels of 1 mm

BYTES = {
    "MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4, "MET_UINT": 4, "MET_FLOAT": 4,
    "MET_DOUBLE": 8,
}  # fmt: skip


class Header(NamedTuple):
    """What a ``.mhd`` file says of its scan, x first."""

    size: tuple[int, int, int]
    """Voxels."""
    spacing: tuple[float, float, float]
    """mm."""
    data: Path
    """The file of the voxels."""

    @property
    def size_resampled(self) -> tuple[int, int, int]:
        """Voxels of 1 mm, rounded half up as published."""
        x, y, z = (int(n * s / SPACING + 0.5) for n, s in zip(self.size, self.spacing, strict=True))
        return x, y, z


def read_header(path: str | Path) -> Header:
    """Read and check a ``.mhd`` file, before anything else is allowed to act on it.

    Raises:
        UserError: the file is missing, is no MetaImage header of a 3D scan, or has an absurd size or spacing; or its
            data lies in another folder, is missing or too short.
    """
    path = Path(path)
    fields = _fields(path)
    if fields.get("NDims") != "3":
        raise UserError(f"{path}: expected NDims = 3, got {fields.get('NDims', 'none')}")
    if fields.get("ElementNumberOfChannels", "1") != "1":
        raise UserError(f"{path}: expected one value a voxel, got {fields['ElementNumberOfChannels']}")
    sizes = _numbers(path, fields, "DimSize")
    spacings = _numbers(path, fields, "ElementSpacing" if "ElementSpacing" in fields else "ElementSize")
    if not all(n == int(n) and 1 <= n <= LARGEST_SIDE for n in sizes):
        raise UserError(f"{path}: expected DimSize of whole numbers from 1 to {LARGEST_SIDE}, got {fields['DimSize']}")
    if not all(0 < s <= LARGEST_SPACING for s in spacings):
        raise UserError(f"{path}: expected a spacing above 0 to {LARGEST_SPACING:g} mm, got {spacings}")
    header = Header((int(sizes[0]), int(sizes[1]), int(sizes[2])), spacings, _data_file(path, fields))
    resampled = header.size_resampled
    if not 1 <= math.prod(resampled) <= LARGEST_VOLUME:
        raise UserError(f"{path}: expected up to {LARGEST_VOLUME} voxels at {SPACING:g} mm, got {resampled}")
    _check_length(path, fields, header)
    return header


def load_resampled(path: str | Path, needed: tuple[slice, slice, slice] | None = None) -> np.ndarray:
    """Read a scan and resample it to 1 mm by linear interpolation; origin and direction stay.

    Args:
        path: a ``.mhd`` file.
        needed: the part of the result that is looked at, x first, for which alone the time is spent; unset: all of it.

    Returns:
        int16 (X, Y, Z), HU; 0 where the new grid leaves the scan, and outside of what is needed.

    Raises:
        UserError: the scan is damaged; see :func:`read_header`.
    """
    header = read_header(path)
    try:
        scan = sitk.ReadImage(str(path), imageIO="MetaImageIO")
    except RuntimeError as error:
        reason = str(error).strip().rpartition("\n")[2]
        raise UserError(f"{path}: expected a CT scan, it cannot be read ({reason})") from None
    resampled = resample(
        sitk.GetArrayViewFromImage(scan), tuple(s / SPACING for s in scan.GetSpacing()),
        tuple(o / SPACING for o in scan.GetOrigin()), header.size_resampled, needed or (slice(None),) * 3,
        outside=OUTSIDE,
    )  # fmt: skip
    return resampled.transpose(2, 1, 0)


def _fields(path: Path) -> dict[str, str]:
    """``Key = value`` lines up to ElementDataFile, which ends a header."""
    try:
        with open(path, "rb") as file:
            text = file.read(LARGEST_HEADER).decode("latin-1")
    except FileNotFoundError:
        raise UserError(f"expected a scan, there is no file {path}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = (part.strip() for part in line.partition("="))
        if key in fields:
            raise UserError(f"{path}: expected {key} once, it is there twice")
        fields[key] = value
        if key == "ElementDataFile":
            return fields
    raise UserError(f"{path}: expected a MetaImage header with an ElementDataFile, found none")


def _numbers(path: Path, fields: dict[str, str], key: str) -> tuple[float, float, float]:
    words = fields.get(key, "").split()
    try:
        x, y, z = (float(word) for word in words)
    except ValueError:
        raise UserError(f"{path}: expected three numbers as {key}, got {fields.get(key, 'none')!r}") from None
    if not all(map(math.isfinite, (x, y, z))):
        raise UserError(f"{path}: expected finite numbers as {key}, got {fields[key]!r}")
    return x, y, z


def _data_file(path: Path, fields: dict[str, str]) -> Path:
    """A file beside the header: one elsewhere, a pattern or a list of files is none of LUNA16's."""
    name = fields["ElementDataFile"]
    if name == "LOCAL":
        return path
    if not name or "/" in name or "\\" in name or "%" in name or name == "LIST" or name.startswith("LIST "):
        raise UserError(f"{path}: expected one file in its own folder as ElementDataFile, got {name!r}")
    data = path.with_name(name)
    if not data.is_file():
        raise UserError(f"{path}: expected its data in {data}, there is no such file")
    return data


def _check_length(path: Path, fields: dict[str, str], header: Header) -> None:
    kind = fields.get("ElementType", "none")
    if kind not in BYTES:
        raise UserError(f"{path}: expected an ElementType of {', '.join(BYTES)}, got {kind!r}")
    # MetaImage reads 1, T and t as true, whatever follows.
    if fields.get("CompressedData", "False")[:1] in ("T", "t", "1"):
        return
    expected = math.prod(header.size) * BYTES[kind]
    found = header.data.stat().st_size
    if found < expected:
        raise UserError(f"{path}: expected {expected} bytes of voxels in {header.data.name}, it has {found}: cut short")
