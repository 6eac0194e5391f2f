"""The contact sheet: samples as the network sees them, with their names."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.atomic import whole_file

SAMPLES = 16
HEIGHT, GAP, LINE, ROW = 144, 4, 17, 1536
"""Pixels: the height of a picture, the space around it, the height of a line, the largest width of a row."""
COLUMNS = (8, 4, 2, 1)
LETTERS = 12  # pixels


class Shown(NamedTuple):
    """A sample to show."""

    name: str
    pictures: Sequence[np.ndarray]
    """uint8, H W, or H W 3 in colour."""
    about: str = ""
    """A line under the name."""


def evenly(count: int) -> list[int]:
    """Return the indices of samples to show, evenly spaced over all of them."""
    return [i * count // SAMPLES for i in range(SAMPLES)] if count > SAMPLES else list(range(count))


def save_sheet(path: Path, caption: str, samples: Sequence[Shown]) -> None:
    """Write the samples as PNG, in rows.

    Args:
        path: the file; its folder is made.
        caption: what is shown, a line.
        samples: at least one.

    Raises:
        UserError: it cannot be written.
    """
    lines = 2 if any(sample.about for sample in samples) else 1
    strips = [_strip(sample, lines) for sample in samples]
    width = max(strip.width for strip in strips) + 3 * GAP
    columns = min(next((n for n in COLUMNS if n * width <= ROW), 1), len(strips))
    rows = -(-len(strips) // columns)
    height = strips[0].height + 3 * GAP
    sheet = Image.new("RGB", (max(columns * width, 640), LINE + rows * height), "white")
    ImageDraw.Draw(sheet).text((GAP, GAP), _drawable(caption), "black", _font())
    for number, strip in enumerate(strips):
        sheet.paste(strip, (number % columns * width + GAP, LINE + number // columns * height + GAP))
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        sheet.save(file, format="PNG")


def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(LETTERS)


def _drawable(text: str) -> str:
    """Return a text that the font can draw; names of files need not be UTF-8."""
    return text.replace("×", "x").encode("utf-8", "replace").decode()


def _strip(sample: Shown, lines: int) -> Image.Image:
    """Return the pictures of a sample side by side, under its name and what is said of it."""
    pictures = [_scaled(Image.fromarray(picture).convert("RGB")) for picture in sample.pictures]
    width = sum(picture.width + GAP for picture in pictures) - GAP
    strip = Image.new("RGB", (width, lines * LINE + HEIGHT), "white")
    draw = ImageDraw.Draw(strip)
    draw.text((0, 1), _fitting(_drawable(sample.name), width, draw), "black", _font())
    draw.text((0, LINE), _drawable(sample.about), "black", _font())
    left = 0
    for picture in pictures:
        strip.paste(picture, (left, lines * LINE))
        left += picture.width + GAP
    return strip


def _fitting(name: str, width: int, draw: ImageDraw.ImageDraw) -> str:
    """Return a name of some pixels at most; its end tells more than its folders."""
    starts = (name if i == 0 else "..." + name[i:] for i in range(len(name)))
    return next((text for text in starts if draw.textlength(text, _font()) <= width), "")


def _scaled(picture: Image.Image) -> Image.Image:
    """Return a picture of HEIGHT; small ones are enlarged without blur, as the network sees their pixels."""
    width = max(1, round(picture.width * HEIGHT / picture.height))
    method = Image.Resampling.NEAREST if picture.height < HEIGHT else Image.Resampling.BILINEAR
    return picture.resize((min(width, 4 * HEIGHT), HEIGHT), method)
