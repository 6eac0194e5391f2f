"""Reading of one image file as 8-bit grey, by Pillow, which torchvision brings along."""

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

# Chest X-rays have some 10 million pixels at most; a file that claims far more would fill the memory.
LARGEST_PIXELS = 200_000_000
# Bits that detectors give; files keep all but the first of them in 16.
DEPTHS = (8, 10, 12, 14, 16)
ORIENTATION = 0x0112  # EXIF: how an image is turned before it is shown
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip


def read_grey(path: str | Path, max_side: int = 0) -> np.ndarray:
    """Read an image of any mode as uint8 grey, H W, turned as its EXIF says.

    Colour is turned to grey by ITU-R 601 weights, and transparency is dropped. 16-bit images are scaled so that white
    is the most that their real depth holds, the smallest of 8, 10, 12, 14 and 16 bits that holds their largest value:
    values up to 4095 are 12 bits.

    Args:
        path: a PNG or JPEG file.
        max_side: shrink so that no side is longer, in pixels; 0 for the size as it is.

    Raises:
        UserError: the file is missing, empty, cut short, damaged, no image, or claims an absurd number of pixels; it is
            in colours of 16 bits of which less is used.
    """
    with opened_image(path, ("PNG", "JPEG"), "an image", "a PNG or JPEG image") as image:
        deep = any("16" in str(tile.args) for tile in getattr(image, "tile", ()))  # unknown once pixels are loaded
        turn = turn_of(image)
        if max_side and image.format == "JPEG":
            image.draft("L", (max_side, max_side))
        grey = _grey(image, path, deep=deep)
        if max_side and max(grey.size) > max_side:
            scale = max_side / max(grey.size)
            size = max(1, round(grey.width * scale)), max(1, round(grey.height * scale))
            grey = grey.resize(size, Image.Resampling.BILINEAR)
        return np.array(grey if turn is None else grey.transpose(turn), dtype=np.uint8)


@contextmanager
def opened_image(path: str | Path, formats: tuple[str, ...], what: str, expected: str) -> Iterator[Image.Image]:
    """An image of some formats, whose check sums are right; whatever Pillow meets in it becomes one line.

    Raises:
        UserError: the file is missing, damaged, of another format, or claims an absurd number of pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            # After which Pillow would go on without what it could not read: how the image is turned, perhaps.
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
    # Pillow's decoders meet damaged files with these.
    except (
        OSError, SyntaxError, ValueError, EOFError, MemoryError, struct.error, UserWarning,
        Image.DecompressionBombError,
    ) as error:  # fmt: skip
        # Of a file that is something else Pillow says no more than its name.
        why = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
        raise UserError(f"{path}: expected {expected}, it is damaged or something else{why}") from None


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """How an image is to be turned, by its EXIF; None for not at all."""
    return TURNS.get(image.getexif().get(ORIENTATION, 1))


def _grey(image: Image.Image, path: str | Path, *, deep: bool) -> Image.Image:
    """In 8 bits, of its size; ``deep``: the file has 16 bits."""
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(np.asarray(image, dtype=np.int64).clip(0, 65535)))
    if image.mode == "L":
        return image
    rgb = image.convert("RGB")
    # Of colours in 16 bits Pillow reads the upper 8 alone.
    if deep and (bits := int(np.asarray(rgb).max()).bit_length() + 8) < DEPTHS[-1] - 1:
        raise UserError(
            f"{path}: expected a 16-bit image in colour to use its depth, its values have {bits} bits at most; save it "
            "in grey, or in 8 bits"
        )
    return rgb.convert("L")


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Whole numbers up to 65535, of the depth that their largest has, to uint8."""
    bits = next(bits for bits in DEPTHS if values.max() < 1 << bits)
    return (values * 255 // ((1 << bits) - 1)).astype(np.uint8)
