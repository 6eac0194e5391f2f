"""Reading of one image file as 8-bit grey, by Pillow, which torchvision brings along."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from data.readers.png import inflated
from utils.errors import UserError

IMAGES = (".png", ".jpg", ".jpeg")

# Chest X-rays have some 10 million pixels at most; a file that claims far more would fill the memory.
LARGEST_PIXELS = 200_000_000
SIXTEEN_BIT = 257  # 65535 / 255


def read_grey(path: str | Path, longest: int = 0) -> np.ndarray:
    """Read an image of any mode as uint8 grey, H W.

    Colour is turned to grey by ITU-R 601 weights, transparency is dropped, and 16-bit images are divided by 257, so
    that their full range becomes 0..255.

    Args:
        path: a PNG or JPEG file.
        longest: shrink so that no side is longer, in pixels; 0 for the size as it is.

    Raises:
        UserError: the file is missing, empty, cut short, no image, or claims an absurd number of pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(inflated(path), formats=("PNG", "JPEG")) as image:
                return _grey(image, path, longest)
    except FileNotFoundError:
        raise UserError(f"expected an image, there is no file {path}") from None
    # Pillow's decoders meet damaged files with these.
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{path}: expected a PNG or JPEG image, it is damaged or something else{why_unread(error)}"
        ) from None


def why_unread(error: BaseException) -> str:
    """Why Pillow could not read a file, in brackets; nothing where it says no more than the file's name."""
    return "" if isinstance(error, UnidentifiedImageError) else f" ({error})"


def _grey(image: Image.Image, path: str | Path, longest: int) -> np.ndarray:
    width, height = image.size
    if width * height > LARGEST_PIXELS:
        raise UserError(f"{path}: expected at most {LARGEST_PIXELS} pixels, its header claims {width}×{height}")
    if longest and image.format == "JPEG":
        image.draft("L", (longest, longest))
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray((np.asarray(image, dtype=np.int64).clip(0, 65535) // SIXTEEN_BIT).astype(np.uint8))
    elif image.mode != "L":
        image = image.convert("RGB").convert("L")
    if longest and max(image.size) > longest:
        scale = longest / max(image.size)
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        image = image.resize(size, Image.Resampling.BILINEAR)
    return np.array(image, dtype=np.uint8)
