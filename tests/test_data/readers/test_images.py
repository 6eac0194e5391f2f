"""Images of every mode, and files that are no images."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from data.readers.images import LARGEST_PIXELS, read_grey
from utils.errors import UserError

GREY = np.linspace(0, 255, 20 * 30).reshape(20, 30).astype(np.uint8)


def save(tmp_path, image, name="x.png", **kwargs):
    image.save(tmp_path / name, **kwargs)
    return tmp_path / name


def test_grey_is_read_as_it_is(tmp_path):
    image = read_grey(save(tmp_path, Image.fromarray(GREY)))
    assert image.dtype == np.uint8 and np.array_equal(image, GREY)


def test_colours_palettes_and_transparency_become_grey(tmp_path):
    rgb = Image.fromarray(np.stack([GREY] * 3, axis=-1))
    rgba = Image.fromarray(np.dstack([GREY] * 3 + [np.full_like(GREY, 7)]))
    la = Image.fromarray(np.dstack([GREY, np.full_like(GREY, 7)]))
    palette = Image.fromarray(GREY).convert("P")
    for image in (rgb, rgba, la, palette):
        assert np.array_equal(read_grey(save(tmp_path, image)), GREY), image.mode
    red = Image.fromarray(np.dstack([GREY, 0 * GREY, 0 * GREY]))
    assert np.abs(read_grey(save(tmp_path, red)) - 0.299 * GREY).max() <= 1
    ones = Image.fromarray(GREY > 100)
    assert np.array_equal(read_grey(save(tmp_path, ones)), (GREY > 100) * np.uint8(255))


def test_16_bits_keep_their_full_range(tmp_path):
    deep = Image.fromarray(GREY.astype(np.uint16) * 257)
    assert np.array_equal(read_grey(save(tmp_path, deep)), GREY)


def test_jpeg_and_shrinking(tmp_path):
    big = Image.fromarray(np.kron(GREY, np.ones((10, 10), dtype=np.uint8)))
    assert np.abs(read_grey(save(tmp_path, big, "x.jpg", quality=95)).astype(int) - np.array(big)).max() < 30
    for name in ("x.png", "x.jpg"):
        small = read_grey(save(tmp_path, big, name), longest=30)
        assert small.shape == (20, 30)
        assert np.abs(small.astype(int) - GREY).mean() < 3
    assert read_grey(save(tmp_path, big), longest=1000).shape == (200, 300)


def png_of_claimed_size(width, height):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def test_bad_files_get_one_line_that_names_them(tmp_path):
    good = save(tmp_path, Image.fromarray(GREY)).read_bytes()
    bad = {
        "empty": b"", "text": b"not an image", "cut": good[: len(good) // 2], "header": good[:30],
        "gif": b"GIF89a" + b"\0" * 50, "bomb": png_of_claimed_size(60000, 60000), "flat": png_of_claimed_size(0, 5),
        "short": png_of_claimed_size(500, 500), "damaged": good[:60] + b"\xff" * 20 + good[80:],
    }  # fmt: skip
    for name, content in bad.items():
        path = tmp_path / f"{name}.png"
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"{name}.png") as caught:
            read_grey(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError) as caught:
        read_grey(tmp_path / "text.png")
    assert str(caught.value).count("text.png") == 1, "Pillow names the file as well"
    with pytest.raises(UserError, match="there is no file"):
        read_grey(tmp_path / "missing.png")
    with pytest.raises(UserError, match="directory"):
        read_grey(tmp_path)
    assert LARGEST_PIXELS < 60000 * 60000
