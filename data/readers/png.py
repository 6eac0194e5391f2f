"""PNG files inflated ahead of Pillow, whose decoding of them is mostly zlib's inflating, line by line.

ISA-L, where it is installed, inflates a whole file at several times that speed. Pillow is then given the same PNG with
its pixels stored instead of deflated; filters, palettes, depths and what to say of a damaged file stay Pillow's.
"""

import io
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

isal_zlib: Any
try:
    from isal import isal_zlib
except ImportError:  # Pillow alone reads every file as well.
    isal_zlib = None

Piece = bytes | memoryview
SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Samples of a pixel by colour type: grey, RGB, palette, grey and alpha, RGBA.
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# Of deflate's stored blocks (RFC 1951, section 3.2.4).
LARGEST_BLOCK = 65535
# A larger file is left to Pillow, which reads files bit by bit.
LARGEST_FILE = 2**28


class _LeftToPillow(Exception):
    """A file that is not inflated here: no PNG, interlaced, damaged or of an absurd size."""


def inflated(path: str | Path) -> str | Path | io.BytesIO:
    """What Pillow is to open: a PNG in memory, its pixels inflated; for any other file its path.

    Raises:
        OSError: the file cannot be read.
    """
    if isal_zlib is None:
        return path
    try:
        with open(path, "rb") as file:
            if file.read(len(SIGNATURE)) != SIGNATURE or os.fstat(file.fileno()).st_size > LARGEST_FILE:
                raise _LeftToPillow
            return io.BytesIO(_inflated(file.read()))
    except _LeftToPillow:
        return path


def _inflated(content: bytes) -> bytes:
    """A PNG without its signature, to one with it and stored pixels."""
    chunks = list(_chunks(content))
    first = next((i for i, (kind, _) in enumerate(chunks) if kind == b"IDAT"), None)
    if first is None:
        raise _LeftToPillow
    pixels = _inflate([body for kind, body in chunks if kind == b"IDAT"], _pixel_bytes(chunks[0]))
    rest: list[tuple[bytes, Sequence[Piece]]] = [(kind, [body]) for kind, body in chunks if kind != b"IDAT"]
    rest.insert(first, (b"IDAT", list(_stored(pixels))))
    return b"".join([SIGNATURE, *(part for kind, body in rest for part in _chunk(kind, body))])


def _inflate(deflated: list[memoryview], expected: int) -> list[bytes]:
    """Pixels in pieces, as they come; never more than expected."""
    inflater, pixels, left = isal_zlib.decompressobj(), [], expected
    try:
        for body in deflated:
            # With room for just what is left, the end of the stream would not be seen.
            pixels.append(inflater.decompress(body, left + 1))
            left -= len(pixels[-1])
            if left < 0:
                break
    except (isal_zlib.error, EOFError):
        raise _LeftToPillow from None
    if left or not inflater.eof:
        raise _LeftToPillow
    return pixels


def _chunks(content: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and body of each chunk."""
    view, place = memoryview(content), 0
    while place < len(content):
        if place + 12 > len(content):
            raise _LeftToPillow
        length, kind = struct.unpack_from(">I4s", content, place)
        place += 12 + length
        if place > len(content):
            raise _LeftToPillow
        yield kind, view[place - 4 - length : place - 4]


def _pixel_bytes(header: tuple[bytes, memoryview]) -> int:
    """Bytes of all lines, each with its filter's number before it."""
    kind, body = header
    if kind != b"IHDR" or len(body) != 13:
        raise _LeftToPillow
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", body)
    if interlaced or colour not in CHANNELS:
        raise _LeftToPillow
    size = height * (1 + (width * depth * CHANNELS[colour] + 7) // 8)
    if size > LARGEST_FILE:
        raise _LeftToPillow
    return size


def _stored(pixels: list[bytes]) -> Iterator[Piece]:
    """A zlib stream of stored blocks."""
    yield b"\x78\x01"
    checksum = 1
    for piece in pixels:
        checksum, view = isal_zlib.adler32(piece, checksum), memoryview(piece)
        for start in range(0, len(piece), LARGEST_BLOCK):
            block = view[start : start + LARGEST_BLOCK]
            yield struct.pack("<BHH", 0, len(block), len(block) ^ 0xFFFF)
            yield block
    yield b"\x01\0\0\xff\xff"  # the last block, empty
    yield struct.pack(">I", checksum)


def _chunk(kind: bytes, body: Sequence[Piece]) -> Iterator[Piece]:
    """A chunk with its length and its checksum."""
    checksum = isal_zlib.crc32(kind)
    for part in body:
        checksum = isal_zlib.crc32(part, checksum)
    yield struct.pack(">I", sum(map(len, body))) + kind
    yield from body
    yield struct.pack(">I", checksum)
