"""Checks that files hold all voxels that their headers claim, since SimpleITK reads zeros beyond the end of a file."""

import functools
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.errors import UserError

PIECE = 1 << 20  # bytes that are read or inflated at a time
ZLIB_OR_GZIP = 47  # zlib's wbits for zlib and gzip streams alike
GZIP = b"\x1f\x8b"


class Stored(NamedTuple):
    """The position of the voxels in a file, as its header claims."""

    file: Path
    start: int
    """Bytes of the file before the voxels, or before the compressed stream."""
    skip: int
    """Bytes of the inflated stream before the voxels."""
    length: int
    """Bytes of all voxels."""
    deflated: bool
    floats: str = ""
    """NumPy's type of floating point numbers to check for NaN and infinity, which SimpleITK hides; else empty."""


class _Damaged(Exception):
    """A stream cannot be inflated; the message is the reason."""


def read_head(path: Path, length: int) -> tuple[bytes, bool]:
    """Read the first bytes of a file, inflated if it is a gzip, and whether it is one.

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
    """Compare a header with its file: the number of bytes of voxels, and check sums if they are compressed.

    Raises:
        UserError: the file is cut short, too long or damaged, or holds values that are not finite.
    """
    try:
        status = stored.file.stat()
        found, bad = status.st_size - stored.start - stored.skip, 0
        if stored.deflated or (stored.floats and found == stored.length):
            found, bad = _count(stored, status.st_size, status.st_mtime_ns)
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
    """Return the error of a volume with NaN or infinite values."""
    return UserError(f"{path}: holds values that are not finite: NaN or infinite in {bad} of {voxels} voxels")


# Cached, so that a scan of which many cubes are cut is checked only once.
@functools.lru_cache(maxsize=4096)
def _count(stored: Stored, size: int, modified: int) -> tuple[int, int]:
    """Count the bytes of voxels, up to the first that is too many, and the values that are not finite.

    Args:
        stored: the position of the voxels.
        size, modified: of the file; the cache depends on them.
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
    """Inflate a stream in pieces, so that a file that inflates to more than it claims cannot fill the memory."""
    inflater, ended = zlib.decompressobj(ZLIB_OR_GZIP), False
    try:
        for read in _read(stored):
            content = read
            while content:
                if ended:  # a gzip may consist of several streams; nothing else may follow
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
