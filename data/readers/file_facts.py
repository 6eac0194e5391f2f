"""What a file is, before anything is done to it: format, stored numbers, size, spacing and orientation."""

import math
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from PIL import Image

from data.readers.arrays import read_array
from data.readers.dicom_series import DicomSeries
from data.readers.dicom_tags import BITS_STORED, PHOTOMETRIC, READABLE, DicomFile, is_dicom, open_dicom
from data.readers.file_names import ending_of
from data.readers.geometry import Geometry
from data.readers.images import PICTURES
from data.readers.itk import open_volume
from data.readers.volumes import Source

# Names of Pillow's modes; of one value a pixel where nothing else is said.
MODES = {
    "1": "1 bit", "L": "8 bits", "LA": "8 bits, alpha", "P": "palette", "RGB": "8 bits, colour",
    "RGBA": "8 bits, colour, alpha", "CMYK": "8 bits, CMYK", "I": "32 bits", "F": "floating point",
}  # fmt: skip
# Cosines between an axis and the patient's, below which a volume is called oblique: 1 degree.
STRAIGHT = math.cos(math.radians(1))


class FileFacts(NamedTuple):
    """What a file is."""

    kind: str
    """Format, and how values are stored."""
    size: tuple[int, ...]
    """As stored: columns and rows of an image, x y z of a volume."""
    spacing: tuple[float, ...] = ()
    """mm; empty where the file has none."""
    orientation: str = ""
    """Where x, y and z point in the patient, as ``LPS``; empty where the file does not say."""
    values: tuple[float, float] = (math.nan, math.nan)
    """The least and the largest; NaN where nobody looked."""

    def with_values(self, values: np.ndarray) -> "FileFacts":
        """Return the facts with the range of an array's values."""
        return self._replace(values=(float(values.min()), float(values.max())))


def describe_image(path: Path) -> FileFacts:
    """Describe an image that :func:`data.readers.images.read_grey` has read; its values are not looked at.

    Raises:
        OSError, UserError: the file has gone since.
    """
    if ending_of(path) not in PICTURES and is_dicom(path):
        file = open_dicom(path)
        columns, rows = file.reader.GetSize()[:2]
        return FileFacts(f"DICOM, {file.text(PHOTOMETRIC) or 'grey'}, {_stored(file)}", (columns, rows))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what reading its pixels has accepted
        with Image.open(path) as image:
            deep = image.mode.startswith("I;16") or any("16" in str(tile.args) for tile in getattr(image, "tile", ()))
            mode = MODES.get(image.mode, image.mode)
            mode = mode.replace("8 bits", "16 bits") if deep and "bits" in mode else "16 bits" if deep else mode
            return FileFacts(f"{image.format}, {mode}", image.size)


def describe_volume(source: Source) -> FileFacts:
    """Describe a volume by its header; its values are not looked at.

    Raises:
        UserError: as :func:`data.readers.volumes.read_volume`.
    """
    if isinstance(source, DicomSeries):
        straightened = ", straightened" if source.stack.depth else ""
        kind = f"DICOM series, {_stored(open_dicom(source.files[0]))}{straightened}"
        return _placed(kind, source.geometry)
    if ending_of(source) == ".npy":
        array = read_array(source, what="voxels", mapped=True)
        return FileFacts(f".npy, {array.dtype}", array.shape)
    volume = open_volume(source)
    kind = sitk.GetPixelIDValueAsString(volume.reader.GetPixelID())
    return _placed(f"{ending_of(source)}, {kind}", volume.geometry)


def _stored(file: DicomFile) -> str:
    syntax = READABLE.get(file.syntax or "", "no transfer syntax")
    return f"{file.number(BITS_STORED, 0):g} bits, {syntax}"


def _placed(kind: str, grid: Geometry) -> FileFacts:
    return FileFacts(kind, grid.size, grid.spacing, orientation_of(grid))


def orientation_of(grid: Geometry) -> str:
    """Return where x, y and z point: ``LPS`` to the left, to the back (posterior) and up (superior)."""
    nearest = [(axis, int(abs(axis).argmax())) for axis in grid.axes.T]
    letters = "".join("LPS"[i] if axis[i] > 0 else "RAI"[i] for axis, i in nearest)
    return letters + (", oblique" if any(abs(axis[i]) < STRAIGHT for axis, i in nearest) else "")
