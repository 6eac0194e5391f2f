"""Where a file keeps its voxels, and whether all of them are there: SimpleITK reads zeros where a file ends early."""

import functools
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.errors import UserError

PIECE = 1 << 20  # bytes that are inflated at once
ZLIB_OR_GZIP = 47  # zlib's number for either, whichever comes
GZIP = b"\x1f\x8b"


class Stored(NamedTuple):
    """Where the voxels lie, as a header says."""

    file: Path
    start: int
    """Bytes of the file before them, or before the stream that is to be inflated."""
    skip: int
    """Bytes of that stream before them."""
    length: int
    """Bytes of all voxels."""
    deflated: bool
    floats: str = ""
    """NumPy's kind of floating point numbers that are to be looked at, since SimpleITK hides those that are none."""


class _Damaged(Exception):
    """A stream that cannot be inflated, and why."""


def read_head(path: Path, length: int) -> tuple[bytes, bool]:
    """The first bytes of a file, inflated where it is a gzip, and whether it is one.

    Raises:
        UserError: the file is missing, cannot be read, or is damaged.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(length)
            if not head.startswith(GZIP):
                return head, False
            return zlib.decompressobj(ZLIB_OR_GZIP).decompress(head + file.read(length), length), True
    except FileNotFoundError:
        raise UserError(f"expected a scan, there is no file {path}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except zlib.error as error:
        raise UserError(f"{path}: expected a gzip, it is damaged ({error})") from None


def check_stored(path: Path, stored: Stored) -> None:
    """Compare what a header claims with what is there: all bytes, no more, and the check sums of deflated ones.

    Raises:
        UserError: the file is cut short, too long or damaged, or holds values that are not finite.
    """
    try:
        status = stored.file.stat()
        found, bad = status.st_size - stored.start - stored.skip, 0
        if stored.deflated or (stored.floats and found == stored.length):
            found, bad = _look_at(stored, status.st_size, status.st_mtime_ns)
    except _Damaged as error:
        raise UserError(f"{path}: {stored.file.name} is damaged ({error})") from None
    except OSError as error:
        raise UserError(f"cannot read {stored.file}: {error.strerror or error}") from None
    if found != stored.length:
        raise UserError(
            f"{path}: expected {stored.length} bytes of voxels in {stored.file.name}, it has "
            f"{'more' if stored.deflated and found > stored.length else max(found, 0)}: "
            f"{'cut short' if found < stored.length else 'too long'}"
        )
    if bad:
        raise not_finite(path, bad, stored.length // np.dtype(stored.floats).itemsize)


def not_finite(path: Path, bad: int, voxels: int) -> UserError:
    """The one line of a volume with values that are no numbers."""
    return UserError(f"{path}: holds values that are not finite: NaN or infinite in {bad} of {voxels} voxels")


# A scan of which many cubes are cut is looked at whole once.
@functools.lru_cache(maxsize=4096)
def _look_at(stored: Stored, size: int, modified: int) -> tuple[int, int]:
    """How many bytes of voxels there are, counted up to the first that is too many, and how many values are not finite.

    Args:
        stored: where.
        size, modified: of the file; with them what was seen is kept.
    """
    total, bad, rest = -stored.skip, 0, b""
    for piece in _inflated(stored) if stored.deflated else _read(stored):
        voxels = rest + piece[max(-total, 0) :] if stored.floats else b""
        total += len(piece)
        if total > stored.length:
            break
        if stored.floats:
            whole = len(voxels) - len(voxels) % np.dtype(stored.floats).itemsize
            bad += int(np.count_nonzero(~np.isfinite(np.frombuffer(voxels[:whole], stored.floats))))
            rest = voxels[whole:]
    return total, bad


def _read(stored: Stored) -> Iterator[bytes]:
    with open(stored.file, "rb") as file:
        file.seek(stored.start)
        while content := file.read(PIECE):
            yield content


def _inflated(stored: Stored) -> Iterator[bytes]:
    """A stream in pieces, so that a file that claims little and holds much cannot fill the memory."""
    inflater, ended = zlib.decompressobj(ZLIB_OR_GZIP), False
    try:
        for read in _read(stored):
            content = read
            while content:
                if ended:  # A gzip may consist of several; nothing else may follow.
                    inflater = zlib.decompressobj(ZLIB_OR_GZIP)
                yield inflater.decompress(content, PIECE)
                ended = inflater.eof
                content = inflater.unused_data if ended else inflater.unconsumed_tail
        if not ended:
            yield inflater.flush()
    except zlib.error as error:
        raise _Damaged(error) from None
    if not inflater.eof:
        raise _Damaged("its stream is cut short")
