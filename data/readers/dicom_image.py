"""Reading of an X-ray in DICOM as 8-bit grey: what a viewer shows first.

The steps are those of DICOM PS3.3 and PS3.4, annex N: stored values, rescale (modality LUT), window (VOI LUT), and
inversion where the least value is white.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from PIL import Image

from data.readers.dicom_tags import (
    BITS_STORED,
    CENTRE,
    FRAMES,
    FUNCTION,
    INTERCEPT,
    PHOTOMETRIC,
    SIGNED,
    SLOPE,
    WIDTH,
    DicomFile,
    open_dicom,
    read_pixels,
)
from data.readers.grey_levels import FROM_FILE, LARGEST_PIXELS, limits_of, rounded_by_value, to_grey
from utils.errors import UserError

FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


class Window(NamedTuple):
    """Which values are shown, PS3.3, C.11.2.1."""

    centre: float
    width: float
    function: str = "LINEAR"

    def shown(self, values: np.ndarray) -> np.ndarray:
        """Return what a display shows of values after rescale, float64 in 0..255, before any inversion."""
        if self.function == "SIGMOID":
            return 255 / (1 + np.exp((-4 * (values - self.centre) / self.width).clip(-700, 700)))
        half = 0.5 if self.function == "LINEAR" else 0.0
        span = max(self.width - 2 * half, np.finfo(float).tiny)
        return (((values - (self.centre - half)) / span + 0.5) * 255).clip(0, 255)


def read_dicom_grey(path: Path, intensity: str = FROM_FILE) -> np.ndarray:
    """Read an X-ray as uint8 grey, H W; black is air, also where the file stores it the other way (MONOCHROME1).

    Args:
        path: a DICOM file of one image, in grey or in colour of 8 bits.
        intensity: ``file``: by the file's first window; without one, 8 bits as they are and more bits by percentiles.
            Others as in :mod:`data.readers.grey_levels`. Colour is converted to grey by ITU-R 601 weights.

    Raises:
        UserError: the file is missing, damaged, too short, of a transfer syntax that cannot be decoded, or has several
            frames; its window is wrong, or shows nothing of the image.
    """
    file = open_dicom(path)
    width, height = file.reader.GetSize()[:2]
    frames = int(file.number(FRAMES, 1))
    if frames > 1 or file.reader.GetSize()[2:] not in ((), (1,)):
        raise UserError(
            f"{path}: expected one image, it has {frames} frames; save those that count as files of their own"
        )
    if width * height > LARGEST_PIXELS:
        raise UserError(f"{path}: expected at most {LARGEST_PIXELS} pixels, its header claims {width}×{height}")
    pixels = sitk.GetArrayFromImage(read_pixels(file)).squeeze(0)
    if pixels.ndim == 3:
        return _grey_of_colour(path, pixels)
    if not np.isfinite(pixels).all():
        raise UserError(f"{path}: expected finite values, {np.count_nonzero(~np.isfinite(pixels))} are not")
    window = _window(file)
    if intensity == FROM_FILE and window is not None:
        return _through_window(file, pixels, window)
    if intensity == FROM_FILE and pixels.dtype == np.uint8:
        return pixels
    # SimpleITK has inverted MONOCHROME1 already.
    return to_grey(pixels, *limits_of(pixels, intensity))


def _grey_of_colour(path: Path, pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype != np.uint8 or pixels.shape[2] != 3:
        raise UserError(
            f"{path}: expected grey or colour of three values of 8 bits, got {pixels.shape[2]} of {pixels.dtype}"
        )
    return np.array(Image.fromarray(pixels).convert("L"))


def _window(file: DicomFile) -> Window | None:
    """The first window of a file; None where it has none, or one of width 0, as some devices write."""
    if not file.text(CENTRE) or not file.text(WIDTH):
        return None
    window = Window(file.number(CENTRE, 0), file.number(WIDTH, 0), file.text(FUNCTION) or FUNCTIONS[0])
    if window.function not in FUNCTIONS:
        raise UserError(f"{file.path}: expected a VOI LUT function of {', '.join(FUNCTIONS)}, got {window.function!r}")
    return window if window.width >= 1 or (window.function != "LINEAR" and window.width > 0) else None


def _through_window(file: DicomFile, pixels: np.ndarray, window: Window) -> np.ndarray:
    if file.text(PHOTOMETRIC) == "MONOCHROME1":
        largest = _largest_value(file)
        grey = 255 - rounded_by_value(lambda values: window.shown(largest - values), pixels)
    else:
        grey = rounded_by_value(window.shown, pixels)
    if grey.min() == grey.max() and pixels.min() < pixels.max():
        raise UserError(
            f"{file.path}: its window of centre {window.centre:g} and width {window.width:g} shows nothing of its "
            f"values, {pixels.min():g} to {pixels.max():g}; give --intensity percentiles"
        )
    return grey


def _largest_value(file: DicomFile) -> float:
    """Return the value from which SimpleITK subtracts those of MONOCHROME1: a window is for values as they were.

    SimpleITK subtracts stored values from the largest, and rescales the difference.
    """
    slope, intercept = file.number(SLOPE, 1) or 1.0, file.number(INTERCEPT, 0)
    largest = -1.0 if file.number(SIGNED, 0) else 2 ** min(file.number(BITS_STORED, 16), 32) - 1
    return slope * largest + 2 * intercept
