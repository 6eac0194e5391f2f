"""PNGs checked and inflated before Pillow decodes them: the same pixels, or one line that names the error."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from data.readers import images, png
from data.readers.images import read_grey
from data.readers.masks import read_mask_image
from data.readers.png import SIGNATURE, DamagedPngError, inflated
from utils.errors import UserError

RNG = np.random.default_rng(0)
# Odd sizes, more than one stored block.
GREY = (RNG.integers(0, 256, (251, 331)) // 3 + np.arange(331) // 2).astype(np.uint8)


def encoded(image, **kwargs):
    file = io.BytesIO()
    image.save(file, "PNG", **kwargs)
    return file.getvalue()


def chunks(content):
    place = len(SIGNATURE)
    while place < len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        body, (checksum,) = content[place + 8 :][:length], struct.unpack_from(">I", content, place + 8 + length)
        assert checksum == zlib.crc32(kind + body)
        yield kind, body
        place += 12 + length


def one_idat(content):
    """All chunks but the pixels', and these, deflated, as one."""
    parts = list(chunks(content))
    return [part for part in parts if part[0] != b"IDAT"], b"".join(body for kind, body in parts if kind == b"IDAT")


def joined(parts):
    body = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )
    return SIGNATURE + body


def opened(tmp_path, content):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    source = inflated(path)
    assert source == path or isinstance(source, io.BytesIO)
    return source.read_bytes() if source == path else source.getvalue()


def of_modes():
    grey, rgb = Image.fromarray(GREY), Image.fromarray(np.stack([GREY, GREY // 2, 255 - GREY], axis=-1))
    alpha = Image.fromarray(255 - GREY)
    rgba, la = rgb.copy(), grey.copy()
    rgba.putalpha(alpha)
    la.putalpha(alpha)
    deep = Image.fromarray(GREY.astype(np.uint16) * 257)
    return [grey, rgb, rgba, la, rgb.quantize(200), rgb.quantize(7), grey.convert("1"), deep]


def test_pillow_decodes_the_same_pixels_of_every_mode(tmp_path):
    for image in of_modes():
        content = encoded(image)
        stored = opened(tmp_path, content)
        assert len(stored) > len(content)
        with Image.open(io.BytesIO(stored)) as ours, Image.open(io.BytesIO(content)) as theirs:
            assert ours.mode == theirs.mode and np.array_equal(np.array(ours), np.array(theirs)), image.mode
            assert ours.getpalette() == theirs.getpalette()


def test_pixels_are_stored_and_other_chunks_stay_where_they_are(tmp_path):
    content = encoded(Image.fromarray(GREY), dpi=(300, 300))
    others, idat = one_idat(content)
    halves = [(b"IDAT", idat[:1000]), (b"IDAT", b""), (b"IDAT", idat[1000:])]
    assert [kind for kind, _ in others] == [b"IHDR", b"pHYs", b"IEND"]
    text = (b"tEXt", b"Comment\0after the pixels")
    result = list(chunks(opened(tmp_path, joined([*others[:2], *halves, text, others[2]]))))
    assert [chunk for chunk in result if chunk[0] != b"IDAT"] == [*others[:2], text, others[2]]
    assert result[2][0] == b"IDAT"
    assert zlib.decompress(result[2][1]) == zlib.decompress(idat)
    assert len(result[2][1]) > len(zlib.decompress(idat))


def with_damage(content, kind, place):
    """One byte of the first chunk of a kind, or of its check sum, is another; the length stays."""
    start = content.index(kind) + 4
    length = struct.unpack(">I", content[start - 8 : start - 4])[0]
    place = start + (place if place >= 0 else length + 4 + place)
    return content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]


def damaged():
    content = encoded(Image.fromarray(GREY), dpi=(300, 300))
    (header, _, end), idat = one_idat(content)
    taller = (b"IHDR", struct.pack(">II", 331, 300) + header[1][8:])
    pixels = zlib.decompress(idat)
    adler = idat[:-1] + bytes([idat[-1] ^ 1])
    return {
        "cut": content[:-5], "half": content[: len(content) // 2], "signature": content[:8], "header": content[:30],
        "no end": joined([header, (b"IDAT", idat)]), "no pixels": joined([header, end]),
        "too few lines": joined([taller, (b"IDAT", idat), end]),
        "too many lines": joined([header, (b"IDAT", zlib.compress(pixels * 2)), end]),
        "bomb": joined([header, (b"IDAT", zlib.compress(b"\0" * 10**8)), end]),
        "Adler-32": joined([header, (b"IDAT", adler), end]), "no Adler-32": joined([header, (b"IDAT", idat[:-4]), end]),
        "stream": joined([header, (b"IDAT", idat[:500] + b"\0" * 50 + idat[550:]), end]),
        "CRC of pixels": with_damage(content, b"IDAT", -1), "pixels": with_damage(content, b"IDAT", 999),
        "CRC of header": with_damage(content, b"IHDR", -2), "CRC of resolution": with_damage(content, b"pHYs", -3),
        "CRC of end": with_damage(content, b"IEND", -1),
    }  # fmt: skip


WAYS = ("isal", "zlib", "plain")


def choose(monkeypatch, way):
    """The three ways in which pixels are inflated."""
    if way == "zlib":
        monkeypatch.setattr(png, "isal_zlib", None)
    monkeypatch.setattr(png, "plain", lambda: way == "plain")


@pytest.mark.parametrize("way", WAYS)
def test_wrong_check_sums_and_cut_files_are_refused_as_images_and_as_masks(tmp_path, monkeypatch, way):
    choose(monkeypatch, way)
    path = tmp_path / "x.png"
    for name, content in damaged().items():
        path.write_bytes(content)
        for read in (read_grey, read_mask_image):
            with pytest.raises(UserError, match=r"x\.png: expected .* it is damaged") as caught:
                read(path)
            assert "\n" not in str(caught.value), name


def test_what_is_no_png_or_has_an_absurd_header_is_left_to_pillow(tmp_path):
    (header, end), idat = one_idat(encoded(Image.fromarray(GREY)))
    for name, left in {
        "empty": b"", "text": b"no image", "jpeg": b"\xff\xd8\xff\xe0" + b"\0" * 20,
        "absurd": joined([(b"IHDR", struct.pack(">II", 60000, 60000) + header[1][8:]), (b"IDAT", idat), end]),
        "no header": joined([(b"IDAT", idat), end]), "bad header": joined([(b"IHDR", b"123"), (b"IDAT", idat), end]),
        "colour": joined([(b"IHDR", header[1][:9] + b"\5" + header[1][10:]), (b"IDAT", idat), end]),
    }.items():  # fmt: skip
        assert opened(tmp_path, left) == left, name
        with pytest.raises(UserError, match=r"x\.png: expected"):
            read_grey(tmp_path / "x.png")


def interlaced(values):
    """Adam7 by hand: each pass is an image of every so many pixels."""
    height, width = values.shape
    passes = [values[top::down, left::right] for left, top, right, down in png.PASSES]
    lines = b"".join(b"\0" + line.tobytes() for part in passes if part.size for line in part)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1)
    return joined([(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")])


@pytest.mark.parametrize("shape", [(251, 331), (1, 1), (3, 1), (2, 9)])
def test_interlaced_files_and_bytes_behind_the_end(tmp_path, shape):
    values = GREY[: shape[0], : shape[1]]
    (tmp_path / "i.png").write_bytes(interlaced(values) + b"bytes after the end")
    assert isinstance(inflated(tmp_path / "i.png"), io.BytesIO)
    assert np.array_equal(read_grey(tmp_path / "i.png"), values)


@pytest.mark.parametrize("way", WAYS)
def test_a_bomb_is_inflated_no_further_than_its_header_claims(tmp_path, monkeypatch, way):
    choose(monkeypatch, way)
    (header, end), _ = one_idat(encoded(Image.fromarray(GREY)))
    deflated = zlib.compress(b"\0" * 10**8)
    path = tmp_path / "bomb.png"
    path.write_bytes(
        joined([header, *((b"IDAT", deflated[i : i + 20_000]) for i in range(0, len(deflated), 20_000)), end])
    )
    tracemalloc.start()
    try:
        with pytest.raises(DamagedPngError, match="more pixels"):
            inflated(path)
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("way", WAYS)
def test_grey_is_the_same_every_way_and_large_files_are_checked_only(tmp_path, monkeypatch, way):
    choose(monkeypatch, way)
    path = tmp_path / "x.png"
    for image in of_modes():
        image.save(path)
        with monkeypatch.context() as patched:
            patched.setattr(images, "inflated", lambda path: path)
            alone = read_grey(path)
        assert np.array_equal(read_grey(path), alone), image.mode
    assert isinstance(inflated(path), io.BytesIO) == (way != "plain")
    monkeypatch.setattr(png, "LARGEST_STORED", 1000)
    monkeypatch.setattr(png, "PIECE", 1000)
    assert inflated(path) == path and np.array_equal(read_grey(path), alone)
