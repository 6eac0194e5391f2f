"""CT scans and other volumes in MetaImage, NIfTI, NRRD and ``.npy`` files."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from data.readers.arrays import read_array
from data.readers.file_names import SCANS, ending_of
from data.readers.geometry import AS_STORED, SPACING, Geometry, Turn, turn_to_lps
from data.readers.itk import open_volume, read_image, require_finite
from data.readers.resample import resample
from utils.errors import UserError

VOLUMES = (*SCANS, ".npy")
METAIMAGES = (".mhd", ".mha")

OUTSIDE = 0  # HU, where the resampled grid leaves the scan
# Fat is at −50 to −150 HU and air at −1000: a scan without anything so light is none, or not in HU.
LIGHTEST = -150  # HU


def read_volume(path: Path) -> tuple[np.ndarray, Geometry | None]:
    """A volume, its axes as stored, and where it lies in the patient.

    Returns:
        Whole or floating point numbers, X Y Z, and the geometry; None for ``.npy``, which knows none.

    Raises:
        UserError: the file is missing, damaged, absurdly large, not 3D, or holds values that are not finite.
    """
    if ending_of(path) == ".npy":
        array = read_array(path, what="voxels")
        if array.dtype.kind not in "iufb" or array.ndim != 3 or not array.size:
            raise UserError(f"{path}: expected a volume of numbers with 3 dimensions, got {array.dtype} {array.shape}")
        require_finite(path, array)
        return array, None
    volume = open_volume(path)
    return sitk.GetArrayFromImage(read_image(path, volume)).transpose(2, 1, 0), volume.geometry


def read_header(path: str | Path) -> Geometry:
    """Check a scan's file and header, before anything else is allowed to act on it.

    Returns:
        its geometry, as :func:`load_resampled` turns it.

    Raises:
        UserError: the file is missing, is no volume, is cut short, too long or damaged, has an absurd size or spacing,
            or axes at no right angle; or its data lies in another folder or is missing.
    """
    grid = open_volume(Path(path)).geometry
    return turn_of(Path(path), grid).geometry(grid)


def turn_of(path: Path, grid: Geometry) -> Turn:
    """How the axes of a scan become those of LUNA16, x to the left, y to the back and z up.

    A MetaImage whose axes come in that order keeps them as they are, flipped ones too, as published.
    """
    turn = turn_to_lps(grid)
    return AS_STORED if ending_of(path) in METAIMAGES and turn.order == AS_STORED.order else turn


def load_resampled(
    path: str | Path, needed: tuple[slice, slice, slice] | None = None, *, require_hu: bool = False
) -> np.ndarray:
    """Read a scan and resample it to 1 mm by linear interpolation.

    Axes as :func:`turn_of` says; oblique ones stay oblique, in the order that is nearest.

    Args:
        path: a ``.mhd``, ``.mha``, ``.nii``, ``.nii.gz`` or ``.nrrd`` file.
        needed: the part of the result that is looked at, x first, for which alone the time is spent; unset: all of it.
        require_hu: refuse a scan that cannot be in Hounsfield units, see :func:`require_hounsfield`.

    Returns:
        int16 (X, Y, Z), HU; 0 where the new grid leaves the scan, and outside of what is needed.

    Raises:
        UserError: the scan is damaged; see :func:`read_header`.
    """
    path = Path(path)
    volume = open_volume(path)
    image = read_image(path, volume)  # which owns the memory of its view
    values = sitk.GetArrayViewFromImage(image).transpose(2, 1, 0)
    if require_hu:
        require_hounsfield(path, values)
    turn = turn_of(path, volume.geometry)
    return resample_to_1mm(turn.volume(values), turn.geometry(volume.geometry), needed)


def resample_to_1mm(values: np.ndarray, grid: Geometry, needed: tuple[slice, slice, slice] | None = None) -> np.ndarray:
    """X Y Z on its grid to int16 X Y Z at 1 mm, see :func:`load_resampled`."""
    x, y, z = (slice(None),) * 3 if needed is None else needed
    # As numbers of 1 mm.
    spacing, origin = ((x / SPACING, y / SPACING, z / SPACING) for x, y, z in (grid.spacing, grid.origin))
    resampled = resample(values.transpose(2, 1, 0), spacing, origin, grid.size_resampled, (x, y, z), outside=OUTSIDE)
    return resampled.transpose(2, 1, 0)


def require_hounsfield(path: Path, values: np.ndarray) -> None:
    """Refuse a scan that cannot be in Hounsfield units: stored with an offset of 1000 or so, or scaled.

    Raises:
        UserError: none of its voxels is as light as fat, let alone air.
    """
    lowest = values.min()
    if lowest > LIGHTEST:
        raise UserError(
            f"{path}: expected a CT in Hounsfield units, with air near -1000 and fat near -100, its least value is "
            f"{lowest:g}; convert it (a common offset is -1024), or do not read it as CT"
        )
