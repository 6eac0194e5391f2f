"""Elements that claim more bytes than their file has are refused before a library makes room for them."""

import struct

import pytest

from data.readers.dicom_lengths import EXPLICIT_BIG, IMPLICIT, require_lengths
from data.readers.images import read_grey
from tests.dicom_files import EXPLICIT_LITTLE, dicom_bytes, element, ramp
from utils.errors import UserError

GIGABYTES = 0xF0000000
HEAD = bytes(128) + b"DICM"


def written(path, content):
    path.write_bytes(content)
    return path


def test_an_element_of_gigabytes_is_refused_by_name(tmp_path):
    whole = dicom_bytes(ramp(), extra=[(0x00420011, "OB", b"document")])
    path = written(tmp_path / "whole.dcm", whole)
    assert read_grey(path).shape == (5, 7)
    damaged = whole.replace(struct.pack("<I", 8) + b"document", struct.pack("<I", GIGABYTES) + b"document")
    with pytest.raises(UserError, match=r"damaged\.dcm: its element \(0042,0011\) claims 4026531840 bytes, \d+ are"):
        read_grey(written(tmp_path / "damaged.dcm", damaged))


def implicit(tag, value, length=None):
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value) if length is None else length) + value


def test_implicit_elements_are_counted_in_their_own_way(tmp_path):
    meta = HEAD + element(0x00020010, "UI", IMPLICIT)
    whole = meta + implicit(0x00100010, b"OBOB") + implicit(0x00280010, b"\5\0")
    require_lengths(written(tmp_path / "whole.dcm", whole), IMPLICIT)
    with pytest.raises(UserError, match=r"\(0010,0010\) claims 5 bytes, 4 are left"):
        require_lengths(written(tmp_path / "cut.dcm", meta + implicit(0x00100010, b"OBOB", 5)), IMPLICIT)


@pytest.mark.parametrize("syntax", [None, EXPLICIT_BIG, EXPLICIT_LITTLE])
def test_what_cannot_be_counted_is_left_to_the_library(tmp_path, syntax):
    sequence = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    unclear = {
        None: b"no DICOM at all", EXPLICIT_BIG: struct.pack(">HH2sH", 0x0010, 0x0010, b"PN", 2) + b"AB",
        EXPLICIT_LITTLE: sequence + struct.pack("<HHI", 0xFFFE, 0xE000, GIGABYTES),
    }  # fmt: skip
    require_lengths(written(tmp_path / "x.dcm", HEAD + unclear[syntax]), syntax)
