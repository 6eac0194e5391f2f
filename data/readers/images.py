"""Reading of one image file as 8-bit grey: DICOM by SimpleITK, others by Pillow, which torchvision requires."""

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from data.readers import dicom_tags
from data.readers.dicom_image import read_dicom_grey
from data.readers.file_names import ending_of
from data.readers.grey_levels import FROM_FILE, LARGEST_PIXELS, limits_of, to_grey
from data.readers.png import inflated
from utils.errors import UserError

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
IMAGES = (*PICTURES, *dicom_tags.ENDINGS)
"""Endings of images, in lower case; DICOM files may have none."""

# Bit depths of detectors; all but the first are stored in 16 bits.
DEPTHS = (8, 10, 12, 14, 16)
ORIENTATION = 0x0112  # EXIF tag: how an image is flipped or rotated for display
TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # TIFF tag and its value for images whose least value is white


class ImageSpec(NamedTuple):
    """How images are read."""

    max_side: int = 0
    """Longest side in pixels to which larger images are shrunk; 0 to keep their size."""
    intensity: str = FROM_FILE
    """Which values become black and white, see :mod:`data.readers.grey_levels`."""
    invert: bool = False
    """Whether black and white are exchanged."""


def read_grey(
    path: str | Path, max_side: int = 0, *, intensity: str = FROM_FILE, invert: bool = False
) -> np.ndarray:  # fmt: skip
    """Read an image of any mode as uint8 grey, H W, oriented by its EXIF.

    Colour is converted to grey by ITU-R 601 weights, and transparency is dropped. With the intensity ``file``, DICOM is
    read by its window, see :func:`data.readers.dicom_image.read_dicom_grey`; 16-bit images are scaled so that
    white is the largest value of their real depth, the smallest of 8, 10, 12, 14 and 16 bits that holds their values:
    for values up to 4095, 12 bits; and values that are negative, no integers or of more bits are scaled by percentiles.

    Args:
        path: a PNG, JPEG, TIFF or DICOM file.
        max_side, intensity, invert: as in :class:`ImageSpec`.

    Raises:
        UserError: the file is missing, empty, cut short, damaged or not an image, claims an absurd number of pixels,
            has several pages, is a 16-bit colour image that does not use its depth, or as :func:`read_dicom_grey`.
    """
    path, transpose = Path(path), None
    if ending_of(path) not in PICTURES and dicom_tags.is_dicom(path):
        grey = Image.fromarray(read_dicom_grey(path, intensity))
    else:
        grey, transpose = _read_picture(path, max_side, intensity)
    if max_side and max(grey.size) > max_side:
        scale = max_side / max(grey.size)
        size = max(1, round(grey.width * scale)), max(1, round(grey.height * scale))
        grey = grey.resize(size, Image.Resampling.BILINEAR)
    pixels = np.array(grey if transpose is None else grey.transpose(transpose), dtype=np.uint8)
    return 255 - pixels if invert else pixels


def _read_picture(path: Path, max_side: int, intensity: str) -> tuple[Image.Image, Image.Transpose | None]:
    """Read an image by Pillow, and the transposition that is left to do."""
    with opened_image(path, ("PNG", "JPEG", "TIFF"), "an image", "a PNG, JPEG, TIFF or DICOM image") as image:
        if (pages := getattr(image, "n_frames", 1)) > 1:
            raise UserError(
                f"{path}: expected one image, it has {pages} pages; save those that count as files of their own"
            )
        deep = any("16" in str(tile.args) for tile in getattr(image, "tile", ()))  # before pixels are loaded
        # Pillow transposes TIFF itself when it loads the pixels.
        transpose = None if image.format == "TIFF" else exif_transpose(image)
        if max_side and image.format == "JPEG":
            image.draft("L", (max_side, max_side))
        image.load()
        return _grey(image, path, intensity, deep=deep), transpose


@contextmanager
def opened_image(path: str | Path, formats: tuple[str, ...], what: str, expected: str) -> Iterator[Image.Image]:
    """Open an image of some formats and verify its check sums; errors of Pillow become one line.

    Raises:
        UserError: the file is missing, damaged, of another format, or claims an absurd number of pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            # Errors, since Pillow would otherwise ignore what it cannot read, perhaps the orientation.
            warnings.filterwarnings("error", message="Corrupt EXIF|Truncated File Read|Tag data larger than file")
            with _opened_file(path) as file, Image.open(file, formats=formats) as image:
                width, height = image.size
                if width * height > LARGEST_PIXELS:
                    raise UserError(
                        f"{path}: expected at most {LARGEST_PIXELS} pixels, its header claims {width}×{height}"
                    )
                yield image
    except FileNotFoundError:
        raise UserError(f"expected {what}, there is no file {path}") from None
    # Pillow's decoders raise these for damaged files.
    except (
        OSError, SyntaxError, ValueError, EOFError, MemoryError, struct.error, UserWarning,
        Image.DecompressionBombError,
    ) as error:  # fmt: skip
        # For other formats, Pillow's message is only the file's name.
        why = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
        raise UserError(f"{path}: expected {expected}, it is damaged or something else{why}") from None


def _opened_file(path: str | Path) -> IO[bytes]:
    """Open an image for Pillow; if it opened the file itself, it would exchange the sides of some transposed TIFF."""
    source = inflated(path)
    return source if isinstance(source, io.BytesIO) else open(source, "rb")


def exif_transpose(image: Image.Image) -> Image.Transpose | None:
    """Return the transposition that its EXIF requires; None if there is none."""
    return TRANSPOSES.get(image.getexif().get(ORIENTATION, 1))


def _grey(image: Image.Image, path: Path, intensity: str, *, deep: bool) -> Image.Image:
    """Convert to 8-bit grey; ``deep``: the file has 16 bits per sample."""
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_scaled(np.asarray(image), path, intensity, white_is_zero=_white_is_zero(image)))
    grey = image if image.mode == "L" else _grey_of_colour(image, path, deep=deep)
    if intensity == FROM_FILE:
        return grey
    values = np.asarray(grey)
    return Image.fromarray(to_grey(values, *limits_of(values, intensity)))


def _white_is_zero(image: Image.Image) -> bool:
    """Whether a TIFF's least value is white; Pillow inverts such images of 8 bits, but not those of 16."""
    return getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO


def _scaled(values: np.ndarray, path: Path, intensity: str, *, white_is_zero: bool) -> np.ndarray:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UserError(f"{path}: expected finite values, {np.count_nonzero(~np.isfinite(values))} are not")
    has_depth = values.dtype.kind != "f" and values.min() >= 0 and values.max() <= 65535
    if intensity == FROM_FILE and has_depth:
        grey = _eight_bits(values.astype(np.int64))
    else:
        grey = to_grey(values, *limits_of(values, intensity))
    return 255 - grey if white_is_zero else grey


def _grey_of_colour(image: Image.Image, path: Path, *, deep: bool) -> Image.Image:
    rgb = image.convert("RGB")
    # Pillow reads only the upper 8 bits of 16-bit colours.
    if deep and (bits := int(np.asarray(rgb).max()).bit_length() + 8) < DEPTHS[-1] - 1:
        raise UserError(
            f"{path}: expected a 16-bit image in colour to use its depth, its values have {bits} bits at most; save it "
            "in grey, or in 8 bits"
        )
    return rgb.convert("L")


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Scale integers up to 65535 to uint8, by the bit depth of their largest value."""
    bits = next(bits for bits in DEPTHS if values.max() < 1 << bits)
    return (values * 255 // ((1 << bits) - 1)).astype(np.uint8)
