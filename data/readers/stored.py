"""Where a file keeps its voxels, and whether all of them are there: SimpleITK reads zeros where a file ends early."""

import functools
import zlib
from pathlib import Path
from typing import NamedTuple

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
        UserError: the file is cut short, too long or damaged.
    """
    try:
        status = stored.file.stat()
        if stored.deflated:
            found = _inflated_length(stored, status.st_size, status.st_mtime_ns) - stored.skip
        else:
            found = status.st_size - stored.start - stored.skip
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


# A scan of which many cubes are cut is inflated for its check sums once.
@functools.lru_cache(maxsize=4096)
def _inflated_length(stored: Stored, size: int, modified: int) -> int:
    """Bytes that a file inflates to, counted up to the first that is too many; ``modified`` and ``size`` are its key.

    Inflated in pieces, so that a file that claims little and holds much cannot fill the memory.
    """
    limit, total = stored.skip + stored.length, 0
    inflater, ended = zlib.decompressobj(ZLIB_OR_GZIP), False
    with open(stored.file, "rb") as file:
        file.seek(stored.start)
        try:
            while (content := file.read(PIECE)) and total <= limit:
                while content and total <= limit:
                    if ended:  # A gzip may consist of several; nothing else may follow.
                        inflater = zlib.decompressobj(ZLIB_OR_GZIP)
                    inflated = inflater.decompress(content, PIECE)
                    total += len(inflated)
                    ended = inflater.eof
                    content = inflater.unused_data if ended else inflater.unconsumed_tail
        except zlib.error as error:
            raise _Damaged(error) from None
    if not ended and total <= limit:
        total += len(inflater.flush())
        if not inflater.eof:
            raise _Damaged(f"its stream is cut short after {total} bytes")
    return total
