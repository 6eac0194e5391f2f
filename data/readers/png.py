"""Checks and inflates PNG files before Pillow decodes them, since Pillow ignores the check sums of pixels.

The check inflates all pixels. They are not inflated again: Pillow is given the same PNG with its pixels stored instead
of deflated, and decodes filters, palettes and depths. ISA-L, if installed, inflates several times as fast as zlib, so
that check and decoding together are faster than Pillow alone.
"""

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from utils.plain import plain

isal_zlib: Any
try:
    from isal import isal_zlib
except ImportError:  # zlib is used instead
    isal_zlib = None

Piece = bytes | memoryview
SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Samples of a pixel by colour type: grey, RGB, palette, grey and alpha, RGBA.
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# Adam7's seven passes (PNG's specification, section 8.2): first column and row, then the steps of both.
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
# Bytes of a stored block of deflate (RFC 1951, section 3.2.4).
LARGEST_BLOCK = 65535
# Bytes that are inflated at a time if they are only checked.
PIECE = 1 << 20
# Images of more bytes are checked and then read by Pillow from the file, which needs less memory.
LARGEST_STORED = 2**28
LARGEST_CHECKED = 2**31


class DamagedPngError(ValueError):
    """A PNG whose chunks or pixels contradict its header or check sums."""


def inflated(path: str | Path) -> str | Path | io.BytesIO:
    """Return what Pillow should open: a PNG in memory, its pixels checked and inflated; the path of any other file.

    Raises:
        OSError: the file cannot be read.
        DamagedPngError: a check sum is wrong, or the file is cut short.
    """
    with open(path, "rb") as file:
        if file.read(len(SIGNATURE)) != SIGNATURE:
            return path
        chunks = list(_chunks(file.read()))
    expected = _pixel_bytes(*chunks[0])
    if expected is None:  # Pillow reports what is wrong with its header
        return path
    deflated = [body for kind, body in chunks if kind == b"IDAT"]
    if plain() or expected > LARGEST_STORED:
        for _ in _inflate(deflated, expected, zlib, PIECE):
            pass
        return path
    pixels = list(_inflate(deflated, expected, isal_zlib or zlib, expected + 1))
    return io.BytesIO(_with_stored(chunks, pixels))


def _with_stored(chunks: Sequence[tuple[bytes, memoryview]], pixels: Sequence[bytes]) -> bytes:
    """Return the bytes of the same PNG with its pixels stored."""
    first = next(i for i, (kind, _) in enumerate(chunks) if kind == b"IDAT")
    rest: list[tuple[bytes, Sequence[Piece]]] = [(kind, [body]) for kind, body in chunks if kind != b"IDAT"]
    rest.insert(first, (b"IDAT", list(_stored(pixels))))
    return b"".join([SIGNATURE, *(part for kind, body in rest for part in _chunk(kind, body))])


def _inflate(deflated: Sequence[memoryview], expected: int, library: Any, most: int) -> Iterator[bytes]:
    """Yield inflated pixels in pieces of up to ``most`` bytes; more than expected is an error."""
    inflater, left = library.decompressobj(), expected
    try:
        for body in deflated:
            content, full = body, False
            while (content or full) and left >= 0 and not inflater.eof:
                # One byte more than is left, so that the end of the stream is reached.
                limit = min(most, left + 1)
                piece = inflater.decompress(content, limit)
                left -= len(piece)
                content, full = inflater.unconsumed_tail, len(piece) == limit
                yield piece
    except (library.error, EOFError) as error:
        raise DamagedPngError(f"its pixels cannot be inflated: {error}") from None
    if left < 0:
        raise DamagedPngError("it has more pixels than its header claims")
    if left or not inflater.eof:
        raise DamagedPngError("its pixels are cut short")


def _chunks(content: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield kind and body of each chunk up to the last, IEND; bytes after that are ignored, as PNG readers do."""
    crc32 = (isal_zlib or zlib).crc32
    view, place, kind = memoryview(content), 0, b""
    while kind != b"IEND":
        if place + 12 > len(content):
            raise DamagedPngError("it is cut short")
        length, kind = struct.unpack_from(">I4s", content, place)
        end = place + 12 + length
        if end > len(content):
            raise DamagedPngError("it is cut short")
        if crc32(view[place + 4 : end - 4]) != struct.unpack_from(">I", content, end - 4)[0]:
            raise DamagedPngError(f"the check sum of its chunk {kind!r} is wrong")
        yield kind, view[place + 8 : end - 4]
        place = end


def _pixel_bytes(kind: bytes, body: memoryview) -> int | None:
    """Return the bytes of all lines, each with its filter type; None if the header is invalid or absurd."""
    if kind != b"IHDR" or len(body) != 13:
        return None
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", body)
    if colour not in CHANNELS or not width or not height:
        return None
    size = sum(
        rows * (1 + (columns * depth * CHANNELS[colour] + 7) // 8)
        for left, top, right, down in (PASSES if interlaced else [(0, 0, 1, 1)])
        if (columns := -((left - width) // right)) > 0 and (rows := -((top - height) // down)) > 0
    )
    return size if size <= LARGEST_CHECKED else None


def _stored(pixels: Sequence[bytes]) -> Iterator[Piece]:
    """Yield a zlib stream of stored blocks."""
    yield b"\x78\x01"
    checksum = 1
    for piece in pixels:
        checksum, view = (isal_zlib or zlib).adler32(piece, checksum), memoryview(piece)
        for start in range(0, len(piece), LARGEST_BLOCK):
            block = view[start : start + LARGEST_BLOCK]
            yield struct.pack("<BHH", 0, len(block), len(block) ^ 0xFFFF)
            yield block
    yield b"\x01\0\0\xff\xff"  # the last block, empty
    yield struct.pack(">I", checksum)


def _chunk(kind: bytes, body: Sequence[Piece]) -> Iterator[Piece]:
    """Yield a chunk with its length and check sum."""
    crc32 = (isal_zlib or zlib).crc32
    checksum = crc32(kind)
    for part in body:
        checksum = crc32(part, checksum)
    yield struct.pack(">I", sum(map(len, body))) + kind
    yield from body
    yield struct.pack(">I", checksum)
