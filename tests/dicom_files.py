"""Small DICOM files of any attributes, written by hand, so that readers are tested on what others write."""

import struct

import numpy as np

EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
LONG = ("OB", "OW", "SQ", "UN", "UT")


def element(tag, vr, value):
    """One data element in explicit little endian; ``value``: str, int, a list of ints, or bytes."""
    if isinstance(value, str):
        value = value.encode("latin-1")
        value += (b"\0" if vr == "UI" else b" ") * (len(value) % 2)
    elif not isinstance(value, bytes):
        kind = {"US": "H", "SS": "h", "UL": "I"}[vr]
        numbers = [value] if isinstance(value, int) else value
        value = struct.pack(f"<{len(numbers)}{kind}", *numbers)
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode()
    return head + (b"\0\0" + struct.pack("<I", len(value)) if vr in LONG else struct.pack("<H", len(value))) + value


def dicom_bytes(pixels, *, syntax=EXPLICIT_LITTLE, stored=None, extra=(), photometric="MONOCHROME2", frames=None):
    """A file of ``pixels``, integers H W or H W 3.

    Args:
        pixels: of 8 or 16 bits, signed or not.
        syntax: UID of the transfer syntax that the file claims.
        stored: bits stored; the highest are those of the type, as written.
        extra: (tag, VR, value) of further elements.
        photometric: the photometric interpretation.
        frames: number of frames that the file claims; ``pixels`` are then all of them, one below the other.
    """
    bits, (height, width) = 8 * pixels.dtype.itemsize, pixels.shape[:2]
    stored = stored or bits
    elements = {
        0x00080016: ("UI", DX), 0x00080018: ("UI", "1.2.3.4"), 0x00080060: ("CS", "DX"), 0x00100020: ("LO", "P7"),
        0x00280002: ("US", pixels.shape[2] if pixels.ndim == 3 else 1), 0x00280004: ("CS", photometric),
        0x00280010: ("US", height // (frames or 1)), 0x00280011: ("US", width), 0x00280100: ("US", bits),
        0x00280101: ("US", stored), 0x00280102: ("US", stored - 1), 0x00280103: ("US", int(pixels.dtype.kind == "i")),
        0x7FE00010: ("OW" if bits == 16 else "OB", pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()),
    }  # fmt: skip
    if pixels.ndim == 3:
        elements[0x00280006] = ("US", 0)
    if frames:
        elements[0x00280008] = ("IS", str(frames))
    elements |= {tag: (vr, value) for tag, vr, value in extra}
    meta = element(0x00020010, "UI", syntax)
    head = bytes(128) + b"DICM" + element(0x00020000, "UL", len(meta)) + meta
    return head + b"".join(element(tag, *elements[tag]) for tag in sorted(elements))


def window(centre, width, function=None):
    """The elements of a window."""
    rest = [(0x00281056, "CS", function)] if function else []
    return [(0x00281050, "DS", str(centre)), (0x00281051, "DS", str(width)), *rest]


def rescale(slope, intercept):
    """The elements of a rescale."""
    return [(0x00281052, "DS", str(intercept)), (0x00281053, "DS", str(slope))]


def ramp(height=5, width=7, dtype=np.uint16, step=100):
    """Pixels that differ all, row by row."""
    return (np.arange(height * width).reshape(height, width) * step).astype(dtype)
