"""Lengths of a DICOM file's elements, checked before a library takes so much memory as a damaged one claims."""

import struct
from pathlib import Path
from typing import BinaryIO

from utils.errors import UserError

PREAMBLE, MARK = 128, b"DICM"
IMPLICIT, EXPLICIT_BIG, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
# PS3.5, 7.1.2: value representations whose length has 4 bytes, after 2 that are reserved.
LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
UNDEFINED = 0xFFFFFFFF


def require_lengths(path: Path, syntax: str | None) -> None:
    """Require that each element of a file ends within it, up to the first sequence of undefined length.

    Files without a header, in big endian byte order, or deflated are passed over.

    Raises:
        UserError: an element does not.
    """
    if syntax is None or syntax in (EXPLICIT_BIG, DEFLATED):
        return
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(PREAMBLE + len(MARK))
        while head := file.read(8):
            if len(head) < 8:
                return
            group, number = struct.unpack_from("<HH", head)
            # The file's meta information is explicit in all files.
            length = _explicit_length(file, head) if group == 2 or syntax != IMPLICIT else _long(head[4:])
            if length is None or length == UNDEFINED:
                return
            left = size - file.tell()
            if length > left:
                raise UserError(
                    f"{path}: its element ({group:04x},{number:04x}) claims {length} bytes, {left} are left; the file "
                    "is cut short or damaged"
                )
            file.seek(length, 1)


def _explicit_length(file: BinaryIO, head: bytes) -> int | None:
    """Return the length of an element's value; None where there is no value representation, so that all is unclear."""
    kind = head[4:6]
    if not (kind.isalpha() and kind.isupper()):
        return None
    return _long(file.read(4)) if kind in LONG else struct.unpack_from("<H", head, 6)[0]


def _long(data: bytes) -> int | None:
    return struct.unpack("<I", data)[0] if len(data) == 4 else None
