"""Write masks on the grid of the image they belong to."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image

from data.datasets.cases import Case, Region
from data.readers.dicom_series import DicomSeries
from data.readers.file_names import SCANS, ending_of
from data.readers.itk import last_line
from data.readers.volumes import Source, open_source
from utils.errors import UserError


def regions_to_mask(chosen: np.ndarray, regions: Sequence[Region]) -> np.ndarray:
    """Convert regions, bool K *N, to mask values, uint8 *N; where regions overlap, the later one is written."""
    mask = np.zeros(chosen.shape[1:], dtype=np.uint8)
    for region, where in zip(regions, chosen, strict=True):
        mask[where] = region.mask_value
    return mask


def save_mask(folder: Path, case: Case, mask: np.ndarray) -> None:
    """Write ``{name}.png`` or, with the geometry of the case's image, ``{name}.nii.gz``; never a partial file.

    Raises:
        UserError: the folder cannot be written.
    """
    ending = ".png" if mask.ndim == 2 else ".nii.gz"
    path = folder / f"{case.name.replace(os.sep, '_')}{ending}"
    # SimpleITK chooses the format by the file name, and can only write to a path.
    partial = path.with_name(f".partial.{path.name}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if mask.ndim == 2:
            Image.fromarray(mask).save(partial)
        else:
            sitk.WriteImage(_with_geometry(mask, [*case.images, *([case.mask] if case.mask else [])]), str(partial))
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        raise UserError(f"--save_masks: cannot write {path} ({last_line(error)})") from None


def _with_geometry(mask: np.ndarray, files: Sequence[Source]) -> sitk.Image:
    """Give a mask the geometry of the first of ``files`` that has one."""
    image = sitk.GetImageFromArray(mask.transpose(2, 1, 0))
    source = next((file for file in files if isinstance(file, DicomSeries) or ending_of(file) in SCANS), None)
    if source is not None:
        grid, _ = open_source(source)
        image.SetSpacing(grid.spacing)
        image.SetOrigin(grid.origin)
        image.SetDirection(grid.direction)
    return image
