"""Cutting of a cube out of a scan without reading the rest of it."""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import SimpleITK as sitk

from data.readers.dicom_series import DicomSeries, read_series
from data.readers.geometry import SPACING, Geometry
from data.readers.itk import last_line, open_volume, read_image
from data.readers.volumes import LIGHTEST, Source, read_volume, reorientation_of, require_hounsfield
from utils.errors import UserError


def load_cube(
    source: Source, point: Sequence[float], shape: Sequence[int], *, outside: int, as_stored: bool = True
) -> np.ndarray:  # fmt: skip
    """Cut a cube of 1 mm voxels around a point, along the axes of :func:`data.readers.volumes.load_resampled`.

    Args:
        source: the scan, in a format that :func:`data.readers.volumes.read_header` reads. Of a DICOM series, all
            slices are read, and kept until another one is.
        point: world coordinates x y z, mm.
        shape: voxels.
        outside: HU outside of the scan.
        as_stored: see :class:`data.readers.volumes.VolumeSpec`.

    Returns:
        int16 of ``shape``, HU.

    Raises:
        UserError: the scan is damaged or cannot be in Hounsfield units, or the point is outside of it.
    """
    grid, read_part = _open(source)
    half = (np.array(shape) - 1) / 2 * SPACING
    target = reorientation_of(source, grid, as_stored=as_stored).geometry(grid)
    centre, size = require_inside(source, grid, point), np.array(grid.size)
    half_extent = abs(grid.axes.T @ target.axes).round() @ half / grid.spacing
    # One voxel more on each side, for the interpolation.
    low = np.clip(np.floor(centre - half_extent).astype(int) - 1, 0, size - 1)
    high = np.clip(np.ceil(centre + half_extent).astype(int) + 2, low + 1, size)
    image = read_part(low.tolist(), (high - low).tolist())
    # Air or fat in the cube shows that the scan is in Hounsfield units; without them, the whole scan is checked.
    if sitk.GetArrayViewFromImage(image).min() > LIGHTEST:
        require_hounsfield(source, read_volume(source)[0])
    start = np.array(point) - target.axes @ half
    try:
        cube = sitk.Resample(
            image, list(shape), sitk.Transform(), sitk.sitkLinear, start.tolist(), (SPACING,) * 3, target.direction,
            outside, sitk.sitkInt16,
        )  # fmt: skip
    except RuntimeError as error:
        raise UserError(f"{source}: expected a volume, it cannot be resampled ({last_line(error)})") from None
    return sitk.GetArrayFromImage(cube).transpose(2, 1, 0)


def require_inside(source: Source, grid: Geometry, point: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the voxel coordinates of a point, world coordinates x y z in mm, float64 3.

    Raises:
        UserError: the point is outside of the scan.
    """
    centre, size = grid.to_voxel(point), np.array(grid.size)
    if ((centre < -0.5) | (centre > size - 0.5)).any():
        raise UserError(
            f"{source}: expected candidates within the scan, {tuple(map(float, point))} mm is voxel "
            f"{centre.round(1).tolist()} of {size.tolist()}"
        )
    return centre


def _open(source: Source) -> tuple[Geometry, Callable[[list[int], list[int]], sitk.Image]]:
    """Return the geometry of a scan, and a function that reads the part of a first voxel and size, X Y Z."""
    if isinstance(source, DicomSeries):
        return source.geometry, lambda first, size: sitk.RegionOfInterest(_whole_series(source), size, first)
    volume = open_volume(source)

    def read_part(first: list[int], size: list[int]) -> sitk.Image:
        volume.reader.SetExtractIndex(first)
        volume.reader.SetExtractSize(size)
        return read_image(source, volume)

    return volume.geometry, read_part


@functools.lru_cache(maxsize=1)
def _whole_series(series: DicomSeries) -> sitk.Image:
    """Return all voxels of a series with their geometry; kept, since a scan has many candidates."""
    image = read_series(series)
    image.SetSpacing(series.geometry.spacing)
    image.SetOrigin(series.geometry.origin)
    image.SetDirection(series.geometry.direction)
    return image
