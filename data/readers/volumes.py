"""Reading of CT scans and other volumes: MetaImage, NIfTI, NRRD and ``.npy`` files, and DICOM series."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from data.readers.arrays import read_array
from data.readers.dicom_series import DicomSeries, read_series
from data.readers.file_names import SCANS, ending_of
from data.readers.geometry import AS_STORED, LARGEST_VOLUME, SPACING, Geometry, Reorientation, reorient_to_lps
from data.readers.grey_levels import limits_of
from data.readers.itk import files_of, open_volume, read_image, require_finite
from data.readers.resample import resample
from utils.errors import UserError

VOLUMES = (*SCANS, ".npy")
METAIMAGES = (".mhd", ".mha")
CT, MINMAX, PERCENTILES = INTENSITIES = ("ct", "minmax", "percentiles")
"""``ct``: values are Hounsfield units; else the volume's least and largest value, or two percentiles, are scaled."""

OUTSIDE = 0  # HU outside of the scan in the resampled grid, as published
# Fat is at −50 to −150 HU and air at −1000: a volume without such values is not a CT in HU.
LIGHTEST = -150  # HU
# What the limits of other volumes become: the HU that are scaled to 0 and 1, so that all that follows is one.
BLACK, WHITE = -1000, 1000

Source = Path | DicomSeries
"""A volume's file, or the header where it has several; or a DICOM series."""


class VolumeSpec(NamedTuple):
    """How volumes become voxels of one kind."""

    intensity: str = CT
    """One of INTENSITIES."""
    spacing: float = SPACING
    """mm, along all axes."""
    as_stored: bool = True
    """Whether a MetaImage with its axes in the order of LUNA16's keeps them, flipped ones too, as published."""


PUBLISHED = VolumeSpec()


def read_volume(path: Source) -> tuple[np.ndarray, Geometry | None]:
    """Read a volume, with its axes as stored, and its geometry.

    Returns:
        Integers or floating point numbers, X Y Z, and the geometry; None for ``.npy``, which has none.

    Raises:
        UserError: the file is missing, damaged, absurdly large, not 3D, or holds values that are not finite.
    """
    if isinstance(path, DicomSeries):
        return sitk.GetArrayFromImage(read_series(path)).transpose(2, 1, 0), path.geometry
    if ending_of(path) == ".npy":
        array = read_array(path, what="voxels")
        if array.dtype.kind not in "iufb" or array.ndim != 3 or not array.size:
            raise UserError(f"{path}: expected a volume of numbers with 3 dimensions, got {array.dtype} {array.shape}")
        require_finite(path, array)
        return array, None
    volume = open_volume(path)
    return sitk.GetArrayFromImage(read_image(path, volume)).transpose(2, 1, 0), volume.geometry


def open_source(source: Source) -> tuple[Geometry, Callable[[], sitk.Image]]:
    """Check a volume's files without reading its voxels.

    Returns:
        its geometry as stored, and a function that reads its voxels.

    Raises:
        UserError: see :func:`read_header`.
    """
    if isinstance(source, DicomSeries):
        return source.geometry, partial(read_series, source)
    volume = open_volume(source)
    return volume.geometry, partial(read_image, source, volume)


def source_files(source: Source) -> tuple[Path, ...]:
    """Return all files of a volume.

    Raises:
        UserError: the file is missing, or its header is damaged.
    """
    return source.files if isinstance(source, DicomSeries) else files_of(source)


def read_header(path: str | Source, spec: VolumeSpec = PUBLISHED) -> Geometry:
    """Check a scan's file and header without reading its voxels into memory.

    Returns:
        its geometry, reoriented as by :func:`load_resampled`.

    Raises:
        UserError: the file is missing, not a volume, cut short, too long or damaged; its size or spacing is absurd, or
            its axes are not at right angles; or its data file is missing or in another folder.
    """
    source = Path(path) if isinstance(path, str) else path
    grid, _ = open_source(source)
    if math.prod(grid.size_at(spec.spacing)) > LARGEST_VOLUME:
        raise UserError(
            f"{source}: expected up to {LARGEST_VOLUME} voxels, at --spacing {spec.spacing:g} mm it has "
            f"{grid.size_at(spec.spacing)}; give a larger one"
        )
    return reorientation_of(source, grid, as_stored=spec.as_stored).geometry(grid)


def reorientation_of(source: Source, grid: Geometry, *, as_stored: bool = True) -> Reorientation:
    """Return the reorientation of a scan to the axes of LUNA16: x to the left, y to the back and z up.

    ``as_stored``: see :class:`VolumeSpec`.
    """
    to_lps = reorient_to_lps(grid)
    published = as_stored and isinstance(source, Path) and ending_of(source) in METAIMAGES
    return AS_STORED if published and to_lps.order == AS_STORED.order else to_lps


def load_resampled(
    path: str | Source, needed: tuple[slice, slice, slice] | None = None, *, require_hu: bool = False,
    spec: VolumeSpec = PUBLISHED, on_stored: Callable[[np.ndarray], None] | None = None,
) -> np.ndarray:  # fmt: skip
    """Read a scan and resample it to 1 mm, or another spacing, by linear interpolation.

    Axes are reoriented by :func:`reorientation_of`; oblique axes stay oblique.

    Args:
        path: a ``.mhd``, ``.mha``, ``.nii``, ``.nii.gz`` or ``.nrrd`` file, or a DICOM series.
        needed: the part of the result to compute, x first; unset: all of it.
        require_hu: refuse a CT that cannot be in Hounsfield units, see :func:`require_hounsfield`.
        spec: how it becomes voxels.
        on_stored: is given all values as stored, X Y Z.

    Returns:
        int16 (X, Y, Z): HU, or, with another intensity than ``ct``, −1000 to 1000 from the lower to the upper limit;
        0 HU, or −1000, outside of the scan, and 0 outside of the part needed.

    Raises:
        UserError: the scan is damaged, see :func:`read_header`, or has one value only, which cannot be scaled.
    """
    source = Path(path) if isinstance(path, str) else path
    grid, read = open_source(source)
    image = read()  # kept, since the view uses its memory
    values = sitk.GetArrayViewFromImage(image).transpose(2, 1, 0)
    if on_stored is not None:
        on_stored(values)
    if spec.intensity != CT:
        values = _as_hounsfield(source, values, spec.intensity)
    elif require_hu:
        require_hounsfield(source, values)
    reorient = reorientation_of(source, grid, as_stored=spec.as_stored)
    outside = OUTSIDE if spec.intensity == CT else BLACK
    return resample_volume(
        reorient.volume(values), reorient.geometry(grid), needed, spacing=spec.spacing, outside=outside
    )


def _as_hounsfield(source: Source, values: np.ndarray, intensity: str) -> np.ndarray:
    """Scale values, float32, so that the volume's lower and upper limit become −1000 and 1000; beyond, they are cut."""
    low, high = limits_of(values, intensity)
    if high <= low:
        raise UserError(f"{source}: expected a volume of different values, all are {low:g}")
    scaled = values.astype(np.float32)
    np.clip(scaled, low, high, out=scaled)
    scaled -= np.float32(low)
    scaled *= np.float32((WHITE - BLACK) / (high - low))
    scaled += np.float32(BLACK)
    return scaled


def resample_volume(
    values: np.ndarray, grid: Geometry, needed: tuple[slice, slice, slice] | None = None, *, spacing: float = SPACING,
    outside: int = OUTSIDE,
) -> np.ndarray:  # fmt: skip
    """Resample X Y Z on its grid to int16 X Y Z at 1 mm, or another spacing, see :func:`load_resampled`."""
    x, y, z = (slice(None),) * 3 if needed is None else needed
    # In voxels of the result.
    steps, origin = ((x / spacing, y / spacing, z / spacing) for x, y, z in (grid.spacing, grid.origin))
    result = resample(values.transpose(2, 1, 0), steps, origin, grid.size_at(spacing), (x, y, z), outside=outside)
    return result.transpose(2, 1, 0)


def require_hounsfield(path: Source, values: np.ndarray) -> None:
    """Refuse a scan that cannot be in Hounsfield units: stored with an offset of 1000 or so, or scaled.

    Raises:
        UserError: no voxel has a value as low as fat or air.
    """
    lowest = values.min()
    if lowest > LIGHTEST:
        raise UserError(
            f"{path}: expected a CT in Hounsfield units, with air near -1000 and fat near -100, its least value is "
            f"{lowest:g}; convert it (a common offset is -1024), or do not read it as CT (--intensity)"
        )
