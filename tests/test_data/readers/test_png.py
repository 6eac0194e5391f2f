"""PNGs inflated before Pillow decodes them: the same pixels, and everything unusual left to Pillow."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
from PIL import Image

from data.readers import png
from data.readers.images import read_grey
from data.readers.png import SIGNATURE, inflated

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


def test_what_is_unusual_or_damaged_is_left_to_pillow(tmp_path):
    content = encoded(Image.fromarray(GREY))
    (header, end), idat = one_idat(content)
    interlaced = (b"IHDR", header[1][:-1] + b"\1")
    absurd = (b"IHDR", struct.pack(">II", 60000, 60000) + header[1][8:])
    taller = (b"IHDR", struct.pack(">II", 331, 300) + header[1][8:])
    pixels = zlib.decompress(idat)
    for name, left in {
        "empty": b"", "text": b"no image", "jpeg": b"\xff\xd8\xff\xe0" + b"\0" * 20, "signature": content[:8],
        "cut": content[:-40], "half": content[: len(content) // 2], "garbage behind": content + b"xyz",
        "interlaced": joined([interlaced, (b"IDAT", idat), end]), "absurd": joined([absurd, (b"IDAT", idat), end]),
        "too few lines": joined([taller, (b"IDAT", idat), end]), "no pixels": joined([header, end]),
        "no header": joined([(b"IDAT", idat), end]), "bad header": joined([(b"IHDR", b"123"), (b"IDAT", idat), end]),
        "too many lines": joined([header, (b"IDAT", zlib.compress(pixels * 2)), end]),
        "bomb": joined([header, (b"IDAT", zlib.compress(b"\0" * 10**8)), end]),
        "checksum": joined([header, (b"IDAT", idat[:-1] + bytes([idat[-1] ^ 1])), end]),
        "colour": joined([(b"IHDR", header[1][:9] + b"\5" + header[1][10:]), (b"IDAT", idat), end]),
    }.items():  # fmt: skip
        assert opened(tmp_path, left) == left, name


def test_a_bomb_is_inflated_no_further_than_its_header_claims(tmp_path):
    (header, end), _ = one_idat(encoded(Image.fromarray(GREY)))
    deflated = zlib.compress(b"\0" * 10**8)
    bomb = joined([header, *((b"IDAT", deflated[i : i + 20_000]) for i in range(0, len(deflated), 20_000)), end])
    tracemalloc.start()
    try:
        assert opened(tmp_path, bomb) == bomb
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


def test_grey_is_the_same_with_and_without_isal(tmp_path, monkeypatch):
    paths = []
    for i, image in enumerate(of_modes()):
        paths.append(tmp_path / f"{i}.png")
        image.save(paths[-1])
    with_isal = [read_grey(path) for path in paths]
    monkeypatch.setattr(png, "isal_zlib", None)
    for path, ours in zip(paths, with_isal, strict=True):
        assert np.array_equal(read_grey(path), ours)
    assert inflated(paths[0]) == paths[0]
