"""Reading of volumes by SimpleITK, after a check of their headers and lengths."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from data.readers.file_names import ending_of
from data.readers.geometry import Geometry, require_geometry
from data.readers.metaimage import stored_in_metaimage
from data.readers.nifti import stored_in_nifti
from data.readers.nrrd import stored_in_nrrd
from data.readers.stored import Stored, check_stored, not_finite
from utils.errors import UserError

# By ending, in lower case: our reader of headers, and SimpleITK's reader.
KINDS: dict[str, tuple[Callable[[Path], Stored], str]] = {
    ".mhd": (stored_in_metaimage, "MetaImageIO"), ".mha": (stored_in_metaimage, "MetaImageIO"),
    ".nii": (stored_in_nifti, "NiftiImageIO"), ".nii.gz": (stored_in_nifti, "NiftiImageIO"),
    ".nrrd": (stored_in_nrrd, "NrrdImageIO"),
}  # fmt: skip


class OpenVolume(NamedTuple):
    """A checked file whose voxels are not read yet."""

    reader: sitk.ImageFileReader
    geometry: Geometry
    """As stored."""


def last_line(error: BaseException) -> str:
    """Return the last line of SimpleITK's message; those before are places in its source."""
    return str(error).strip().rpartition("\n")[2]


def unread(path: Path, error: BaseException) -> UserError:
    """Return the error of a file that SimpleITK cannot read."""
    return UserError(f"{path}: expected a volume, it cannot be read ({last_line(error)})")


def files_of(path: Path) -> tuple[Path, ...]:
    """Return the file of an image or a volume, and the file that its header names for the voxels, if any.

    Raises:
        UserError: the file is missing, or its header is damaged.
    """
    if ending_of(path) not in KINDS:
        return (path,)
    read_stored, _ = KINDS[ending_of(path)]
    return tuple(dict.fromkeys((path, read_stored(path).file)))


def open_volume(path: Path) -> OpenVolume:
    """Check a file's header, its geometry and that all its voxels are there.

    Raises:
        UserError: the file is missing, damaged, cut short, too long, absurdly large, not 3D, of more than one value a
            voxel, or its axes are not at right angles.
    """
    if ending_of(path) not in KINDS:
        raise UserError(f"{path}: expected a volume as {', '.join(KINDS)}")
    read_stored, reader_name = KINDS[ending_of(path)]
    stored, reader = read_stored(path), sitk.ImageFileReader()
    try:
        reader.SetFileName(str(path))
        # Given explicitly, since SimpleITK recognises endings in lower case only.
        reader.SetImageIO(reader_name)
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise unread(path, error) from None
    if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1:
        raise UserError(
            f"{path}: expected a volume of one value a voxel, got {reader.GetDimension()} dimensions and "
            f"{reader.GetNumberOfComponents()} values"
        )
    spacing, origin = reader.GetSpacing(), reader.GetOrigin()
    if reader_name == "NiftiImageIO":
        spacing, origin = _decimal(spacing), _decimal(origin)
    grid = Geometry(reader.GetSize(), spacing, origin, reader.GetDirection())
    require_geometry(path, grid)
    check_stored(path, stored)
    if stored.length % math.prod(grid.size):
        raise UserError(f"{path}: its header claims {grid.size} voxels in {stored.length} bytes")
    return OpenVolume(reader, grid)


def read_image(path: Path, volume: OpenVolume) -> sitk.Image:
    """Read the voxels of an open volume, or of the part of it to which its reader is set.

    Raises:
        UserError: they cannot be read, or are not finite.
    """
    try:
        image = volume.reader.Execute()
    except RuntimeError as error:
        raise unread(path, error) from None
    require_finite(path, sitk.GetArrayViewFromImage(image))
    return image


def require_finite(path: Path, values: np.ndarray) -> None:
    """Raise a UserError if there are NaN or infinite values; it counts them."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise not_finite(path, int(np.count_nonzero(~np.isfinite(values))), values.size)


def _decimal(numbers: tuple[float, ...]) -> tuple[float, ...]:
    """Undo the rounding of NIfTI's 32-bit numbers: 0.7 mm is read as 0.69999999, which may change rounded sizes.

    Multiples of 1/4096, such as the 331/512 mm of a field of view of 331 mm, were not rounded.
    """
    return tuple(n if n * 4096 == round(n * 4096) else float(str(np.float32(n))) for n in numbers)
