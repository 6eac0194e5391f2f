"""Reading of one image file as 8-bit grey, by Pillow, which torchvision requires."""

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from data.readers.png import inflated
from utils.errors import UserError

IMAGES = (".png", ".jpg", ".jpeg")

# Chest X-rays have up to some 10 million pixels; a damaged header may claim more than the memory holds.
LARGEST_PIXELS = 200_000_000
# Bit depths of detectors; all but the first are stored in 16 bits.
DEPTHS = (8, 10, 12, 14, 16)
ORIENTATION = 0x0112  # EXIF tag: how an image is flipped or rotated for display
TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip


def read_grey(path: str | Path, max_side: int = 0) -> np.ndarray:
    """Read an image of any mode as uint8 grey, H W, oriented by its EXIF.

    Colour is converted to grey by ITU-R 601 weights, and transparency is dropped. 16-bit images are scaled so that
    white is the largest value of their real depth, the smallest of 8, 10, 12, 14 and 16 bits that holds their values:
    for values up to 4095, 12 bits.

    Args:
        path: a PNG or JPEG file.
        max_side: longest side in pixels to which larger images are shrunk; 0 to keep their size.

    Raises:
        UserError: the file is missing, empty, cut short, damaged or not an image, claims an absurd number of pixels, or
            is a 16-bit colour image that does not use its depth.
    """
    with opened_image(path, ("PNG", "JPEG"), "an image", "a PNG or JPEG image") as image:
        deep = any("16" in str(tile.args) for tile in getattr(image, "tile", ()))  # before pixels are loaded
        transpose = exif_transpose(image)
        if max_side and image.format == "JPEG":
            image.draft("L", (max_side, max_side))
        grey = _grey(image, path, deep=deep)
        if max_side and max(grey.size) > max_side:
            scale = max_side / max(grey.size)
            size = max(1, round(grey.width * scale)), max(1, round(grey.height * scale))
            grey = grey.resize(size, Image.Resampling.BILINEAR)
        return np.array(grey if transpose is None else grey.transpose(transpose), dtype=np.uint8)


@contextmanager
def opened_image(path: str | Path, formats: tuple[str, ...], what: str, expected: str) -> Iterator[Image.Image]:
    """Open an image of some formats and verify its check sums; errors of Pillow become one line.

    Raises:
        UserError: the file is missing, damaged, of another format, or claims an absurd number of pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            # An error, since Pillow would otherwise ignore what it cannot read, perhaps the orientation.
            warnings.filterwarnings("error", message="Corrupt EXIF")
            with Image.open(inflated(path), formats=formats) as image:
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


def exif_transpose(image: Image.Image) -> Image.Transpose | None:
    """Return the transposition that its EXIF requires; None if there is none."""
    return TRANSPOSES.get(image.getexif().get(ORIENTATION, 1))


def _grey(image: Image.Image, path: str | Path, *, deep: bool) -> Image.Image:
    """Convert to 8-bit grey; ``deep``: the file has 16 bits per sample."""
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(np.asarray(image, dtype=np.int64).clip(0, 65535)))
    if image.mode == "L":
        return image
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
