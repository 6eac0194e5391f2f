"""Reading of CT scans and other volumes in MetaImage, NIfTI, NRRD and ``.npy`` files."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from data.readers.arrays import read_array
from data.readers.file_names import SCANS, ending_of
from data.readers.geometry import AS_STORED, SPACING, Geometry, Reorientation, reorient_to_lps
from data.readers.itk import open_volume, read_image, require_finite
from data.readers.resample import resample
from utils.errors import UserError

VOLUMES = (*SCANS, ".npy")
METAIMAGES = (".mhd", ".mha")

OUTSIDE = 0  # HU outside of the scan in the resampled grid, as published
# Fat is at −50 to −150 HU and air at −1000: a volume without such values is not a CT in HU.
LIGHTEST = -150  # HU


def read_volume(path: Path) -> tuple[np.ndarray, Geometry | None]:
    """Read a volume, with its axes as stored, and its geometry.

    Returns:
        Integers or floating point numbers, X Y Z, and the geometry; None for ``.npy``, which has none.

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
    """Check a scan's file and header without reading its voxels into memory.

    Returns:
        its geometry, reoriented as by :func:`load_resampled`.

    Raises:
        UserError: the file is missing, not a volume, cut short, too long or damaged; its size or spacing is absurd, or
            its axes are not at right angles; or its data file is missing or in another folder.
    """
    grid = open_volume(Path(path)).geometry
    return reorientation_of(Path(path), grid).geometry(grid)


def reorientation_of(path: Path, grid: Geometry) -> Reorientation:
    """Return the reorientation of a scan to the axes of LUNA16: x to the left, y to the back and z up.

    A MetaImage with its axes in this order keeps them, flipped ones too, as published.
    """
    to_lps = reorient_to_lps(grid)
    return AS_STORED if ending_of(path) in METAIMAGES and to_lps.order == AS_STORED.order else to_lps


def load_resampled(
    path: str | Path, needed: tuple[slice, slice, slice] | None = None, *, require_hu: bool = False
) -> np.ndarray:
    """Read a scan and resample it to 1 mm by linear interpolation.

    Axes are reoriented by :func:`reorientation_of`; oblique axes stay oblique.

    Args:
        path: a ``.mhd``, ``.mha``, ``.nii``, ``.nii.gz`` or ``.nrrd`` file.
        needed: the part of the result to compute, x first; unset: all of it.
        require_hu: refuse a scan that cannot be in Hounsfield units, see :func:`require_hounsfield`.

    Returns:
        int16 (X, Y, Z), HU; 0 outside of the scan and of the part needed.

    Raises:
        UserError: the scan is damaged; see :func:`read_header`.
    """
    path = Path(path)
    volume = open_volume(path)
    image = read_image(path, volume)  # kept, since the view uses its memory
    values = sitk.GetArrayViewFromImage(image).transpose(2, 1, 0)
    if require_hu:
        require_hounsfield(path, values)
    reorient = reorientation_of(path, volume.geometry)
    return resample_to_1mm(reorient.volume(values), reorient.geometry(volume.geometry), needed)


def resample_to_1mm(values: np.ndarray, grid: Geometry, needed: tuple[slice, slice, slice] | None = None) -> np.ndarray:
    """Resample X Y Z on its grid to int16 X Y Z at 1 mm, see :func:`load_resampled`."""
    x, y, z = (slice(None),) * 3 if needed is None else needed
    # In voxels of the result.
    spacing, origin = ((x / SPACING, y / SPACING, z / SPACING) for x, y, z in (grid.spacing, grid.origin))
    resampled = resample(values.transpose(2, 1, 0), spacing, origin, grid.size_resampled, (x, y, z), outside=OUTSIDE)
    return resampled.transpose(2, 1, 0)


def require_hounsfield(path: Path, values: np.ndarray) -> None:
    """Refuse a scan that cannot be in Hounsfield units: stored with an offset of 1000 or so, or scaled.

    Raises:
        UserError: no voxel has a value as low as fat or air.
    """
    lowest = values.min()
    if lowest > LIGHTEST:
        raise UserError(
            f"{path}: expected a CT in Hounsfield units, with air near -1000 and fat near -100, its least value is "
            f"{lowest:g}; convert it (a common offset is -1024), or do not read it as CT"
        )
