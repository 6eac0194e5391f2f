"""Images of every mode, and files that are no images."""

import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from data.readers.images import LARGEST_PIXELS, read_grey
from data.readers.masks import read_mask_image
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


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_16_bit_files_are_scaled_by_their_real_depth(tmp_path, bits):
    white = (1 << bits) - 1
    values = (GREY.astype(np.uint32) * white // 255).astype(np.uint16)
    read = read_grey(save(tmp_path, Image.fromarray(values)))
    assert np.abs(read.astype(int) - GREY).max() <= 1 and read.max() == 255
    # A darker image of the same depth keeps its place on the scale.
    darker = (values.astype(np.uint32) * 9 // 10).astype(np.uint16)
    assert np.abs(read_grey(save(tmp_path, Image.fromarray(darker))) - GREY * 0.9).max() <= 2
    # One value more, and the file has more bits.
    values[0, 0] = white
    assert read_grey(save(tmp_path, Image.fromarray(values)))[0, 0] == 255
    if bits < 16:
        values[0, 0] = white + 1
        assert read_grey(save(tmp_path, Image.fromarray(values)))[0, 0] == 255 // 4


def test_8_bit_values_in_16_bit_files_are_8_bits(tmp_path):
    assert np.array_equal(read_grey(save(tmp_path, Image.fromarray(GREY.astype(np.uint16)))), GREY)
    nothing = Image.fromarray(np.zeros((3, 4), np.uint16))
    assert not read_grey(save(tmp_path, nothing)).any()


def deep_colour(values, colour):
    """A PNG of 16 bits in colour, which Pillow cannot write."""
    height, width = values.shape
    samples = np.stack([values] * 3 if colour == 2 else [values, np.full_like(values, 65535)], axis=-1)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in samples)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)), (b"IDAT", zlib.compress(lines)),
        (b"IEND", b""),
    ]  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


@pytest.mark.parametrize("colour", [2, 4])
def test_16_bit_colours_are_read_by_their_upper_bits_or_refused(tmp_path, colour):
    path = tmp_path / "c.png"
    path.write_bytes(deep_colour(GREY.astype(np.uint16) * 257, colour))
    assert np.array_equal(read_grey(path), GREY)
    path.write_bytes(deep_colour(GREY.astype(np.uint16) * 16, colour))
    with pytest.raises(UserError, match=r"c\.png: .* its values have 12 bits at most"):
        read_grey(path)


UPRIGHT = np.zeros((40, 64), np.uint8)
UPRIGHT[:10, :30] = 250  # no two ways of turning it look alike


def stored_as(orientation):
    """The pixels of a file that a viewer turns upright, by EXIF's own words: where its row 0 and column 0 are."""
    return {
        1: UPRIGHT, 2: UPRIGHT[:, ::-1], 3: UPRIGHT[::-1, ::-1], 4: UPRIGHT[::-1], 5: UPRIGHT.T,
        6: UPRIGHT.T[::-1], 7: UPRIGHT.T[::-1, ::-1], 8: UPRIGHT.T[:, ::-1],
    }[orientation]  # fmt: skip


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["x.jpg", "x.png"])
def test_images_and_masks_are_turned_as_their_exif_says(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path, Image.fromarray(np.ascontiguousarray(stored_as(orientation))), name, exif=exif, quality=100)
    assert np.abs(read_grey(path).astype(int) - UPRIGHT).max() <= (3 if name == "x.jpg" else 0)
    small = read_grey(path, max_side=32)
    assert small.shape == (20, 32) and small[:4, :14].min() > 230 and small[6:].max() < 20 > small[:, 17:].max()
    if name == "x.png":
        assert np.array_equal(read_mask_image(path), UPRIGHT)


def test_damaged_exif_is_refused_and_an_unknown_orientation_is_none(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    content = save(tmp_path, Image.fromarray(UPRIGHT), "e.jpg", exif=exif).read_bytes()
    start = content.index(b"Exif")
    path = tmp_path / "f.jpg"
    path.write_bytes(content[: start + 14] + b"\xff\xff" + content[start + 16 :])  # 65535 entries
    with pytest.raises(UserError, match=r"f\.jpg: .*damaged .*Corrupt EXIF"):
        read_grey(path)
    exif[0x0112] = 77
    assert read_grey(save(tmp_path, Image.fromarray(UPRIGHT), "g.png", exif=exif)).shape == UPRIGHT.shape


def test_cut_jpegs_are_refused(tmp_path):
    content = save(tmp_path, Image.fromarray(np.kron(GREY, np.ones((9, 9), np.uint8))), "x.jpg").read_bytes()
    path = tmp_path / "y.jpg"
    for kept in (len(content) - 2, len(content) - 20, len(content) // 2, 300, 30):
        path.write_bytes(content[:kept])
        for max_side in (0, 32):
            with pytest.raises(UserError, match=r"y\.jpg: .*damaged"):
                read_grey(path, max_side)


def test_jpeg_and_shrinking(tmp_path):
    big = Image.fromarray(np.kron(GREY, np.ones((10, 10), dtype=np.uint8)))
    assert np.abs(read_grey(save(tmp_path, big, "x.jpg", quality=95)).astype(int) - np.array(big)).max() < 30
    for name in ("x.png", "x.jpg"):
        small = read_grey(save(tmp_path, big, name), max_side=30)
        assert small.shape == (20, 30)
        assert np.abs(small.astype(int) - GREY).mean() < 3
    assert read_grey(save(tmp_path, big), max_side=1000).shape == (200, 300)


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


def test_tiff_of_every_depth(tmp_path):
    values = np.arange(35).reshape(5, 7)
    for name, data, expected in (
        ("8", values.astype(np.uint8), values),
        ("12", (values * 100).astype(np.uint16), values * 100 * 255 // 4095),
        ("signed", (values * 100 - 900).astype(np.int16), None),
        ("float", (values / 35).astype(np.float32), None),
    ):
        tifffile.imwrite(tmp_path / "x.tif", data, compression="zlib")
        if expected is None:  # values of no depth, by percentiles
            low, high = np.percentile(data, (0.5, 99.5))
            expected = np.rint(((data.astype(float) - low) / (high - low) * 255).clip(0, 255))
        assert np.array_equal(read_grey(tmp_path / "x.tif"), expected), name
    for dtype in (np.uint8, np.uint16):
        # Where 0 is white, and stored on its side.
        turned = [(274, "H", 1, 6, False)]
        data = values.astype(dtype)
        tifffile.imwrite(tmp_path / "x.tif", data, photometric="miniswhite", extratags=turned)
        assert np.array_equal(read_grey(tmp_path / "x.tif"), np.rot90(255 - data, -1)), dtype
    tifffile.imwrite(tmp_path / "x.tif", np.stack([values, values]).astype(np.uint8))
    with pytest.raises(UserError, match="x.tif: expected one image, it has 2 pages"):
        read_grey(tmp_path / "x.tif")
    tifffile.imwrite(tmp_path / "x.tif", np.full((5, 7), np.nan, np.float32))
    with pytest.raises(UserError, match="x.tif: expected finite values, 35 are not"):
        read_grey(tmp_path / "x.tif")
