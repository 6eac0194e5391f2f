"""DICOM files before their pixels are read: what they are, their transfer syntax, and their attributes by SimpleITK."""

import math
import struct
from pathlib import Path
from typing import NamedTuple

import SimpleITK as sitk

from data.readers.dicom_lengths import MARK, PREAMBLE, require_lengths
from data.readers.itk import last_line
from utils.errors import UserError

ENDINGS = (".dcm", ".dicom")
# DICOM PS3.6, annex A.1. Those that SimpleITK decodes, and others, so that messages can name them.
READABLE = {
    "1.2.840.10008.1.2": "implicit little endian", "1.2.840.10008.1.2.1": "explicit little endian",
    "1.2.840.10008.1.2.1.99": "deflated", "1.2.840.10008.1.2.2": "explicit big endian",
    "1.2.840.10008.1.2.4.50": "JPEG baseline", "1.2.840.10008.1.2.4.51": "JPEG extended",
    "1.2.840.10008.1.2.4.57": "JPEG lossless", "1.2.840.10008.1.2.4.70": "JPEG lossless, first order",
    "1.2.840.10008.1.2.4.80": "JPEG-LS lossless", "1.2.840.10008.1.2.4.81": "JPEG-LS near lossless",
    "1.2.840.10008.1.2.4.90": "JPEG 2000 lossless", "1.2.840.10008.1.2.4.91": "JPEG 2000",
    "1.2.840.10008.1.2.5": "RLE",
}  # fmt: skip
OTHERS = {
    "1.2.840.10008.1.2.4.92": "JPEG 2000 part 2 lossless", "1.2.840.10008.1.2.4.93": "JPEG 2000 part 2",
    "1.2.840.10008.1.2.4.94": "JPIP", "1.2.840.10008.1.2.4.100": "MPEG-2", "1.2.840.10008.1.2.4.102": "MPEG-4",
    "1.2.840.10008.1.2.4.110": "JPEG XL lossless", "1.2.840.10008.1.2.4.111": "JPEG XL from JPEG",
    "1.2.840.10008.1.2.4.112": "JPEG XL", "1.2.840.10008.1.2.4.201": "HTJ2K lossless",
    "1.2.840.10008.1.2.4.202": "HTJ2K lossless, RPCL", "1.2.840.10008.1.2.4.203": "HTJ2K",
}  # fmt: skip
# Pixels are stored as they are, so that their bytes can be counted.
NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")
PIXEL_DATA = b"\xe0\x7f\x10\x00"

PATIENT_ID, VIEW, PHOTOMETRIC, FRAMES = "0010|0020", "0018|5101", "0028|0004", "0028|0008"
SAMPLES, ROWS, COLUMNS = "0028|0002", "0028|0010", "0028|0011"
BITS_ALLOCATED, BITS_STORED, SIGNED = "0028|0100", "0028|0101", "0028|0103"
CENTRE, WIDTH, FUNCTION = "0028|1050", "0028|1051", "0028|1056"
INTERCEPT, SLOPE = "0028|1052", "0028|1053"


class DicomFile(NamedTuple):
    """A DICOM file whose pixels are not read yet."""

    path: Path
    reader: sitk.ImageFileReader
    syntax: str | None
    """UID of the transfer syntax; None for a file without a header that says it."""

    def text(self, tag: str) -> str:
        """Return the value of an attribute without blanks around it; empty where there is none."""
        return self.reader.GetMetaData(tag).strip(" \0") if self.reader.HasMetaDataKey(tag) else ""

    def number(self, tag: str, default: float) -> float:
        """Return the first number of an attribute, or the default where there is none.

        Raises:
            UserError: it is no number, or no finite one.
        """
        first = self.text(tag).split("\\")[0].strip()
        try:
            number = float(first) if first else default
            if math.isfinite(number):
                return number
            raise ValueError
        except ValueError:
            raise UserError(
                f"{self.path}: expected a number as the attribute ({tag.replace('|', ',')}), got {first!r}"
            ) from None


def is_dicom(path: Path) -> bool:
    """Whether a file has a DICOM file's ending or mark; False where it cannot be read."""
    if path.suffix.lower() in ENDINGS:
        return True
    try:
        with open(path, "rb") as file:
            return file.read(PREAMBLE + len(MARK))[PREAMBLE:] == MARK
    except OSError:
        return False


def open_dicom(path: Path) -> DicomFile:
    """Read the attributes of a file.

    Raises:
        UserError: the file is missing, damaged, no DICOM image, or of a transfer syntax that SimpleITK does not decode.
    """
    syntax = _transfer_syntax(path)
    if syntax is not None and syntax not in READABLE:
        name = OTHERS.get(syntax, "is not known")
        raise UserError(
            f"{path}: its transfer syntax {name} ({syntax!r}) cannot be read; convert it, as with gdcmconv --raw or "
            f"dcmdjpeg, to one of {', '.join(READABLE.values())}"
        )
    require_lengths(path, syntax)
    reader = sitk.ImageFileReader()
    try:
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _damaged(path, error) from None
    return DicomFile(path, reader, syntax)


def read_pixels(file: DicomFile) -> sitk.Image:
    """Decode the pixels of a file; its rescale is applied.

    Raises:
        UserError: they are fewer than the header says, or cannot be decoded.
    """
    if file.syntax in NATIVE:
        _require_all_pixels(file)
    try:
        return file.reader.Execute()
    except RuntimeError as error:
        raise _damaged(file.path, error) from None


def _damaged(path: Path, error: RuntimeError) -> UserError:
    return UserError(f"{path}: expected a DICOM image, it is damaged or something else ({last_line(error)})")


def _transfer_syntax(path: Path) -> str | None:
    """Read element (0002,0010) of the file's meta information, PS3.10: always explicit little endian."""
    try:
        with open(path, "rb") as file:
            head = file.read(PREAMBLE + len(MARK))
            if head[PREAMBLE:] != MARK:
                return None
            meta = file.read(1 << 16)
    except FileNotFoundError:
        raise UserError(f"expected a DICOM image, there is no file {path}") from None
    place = 0
    while place + 12 <= len(meta):
        group, number, kind, length = struct.unpack_from("<HH2sH", meta, place)
        place += 8
        if kind in (b"OB", b"UN"):
            length = struct.unpack_from("<I", meta, place)[0]
            place += 4
        if (group, number) == (2, 0x10):
            return meta[place : place + length].decode("ascii", "replace").strip(" \0")
        if group != 2:
            break
        place += length
    return None


def _require_all_pixels(file: DicomFile) -> None:
    """Require an element Pixel Data as long as the header says; SimpleITK would set what is not there to 0."""
    rows, columns, samples, bits = (int(file.number(tag, 0)) for tag in (ROWS, COLUMNS, SAMPLES, BITS_ALLOCATED))
    samples = 2 if file.text(PHOTOMETRIC) == "YBR_FULL_422" else samples
    expected = (rows * columns * samples * bits * int(file.number(FRAMES, 1)) + 7) // 8
    content = file.path.read_bytes()
    place = content.find(PIXEL_DATA)
    while place >= 0:
        explicit = content[place + 4 : place + 6] in (b"OB", b"OW")
        start = place + (12 if explicit else 8)
        length = int.from_bytes(content[start - 4 : start], "little")
        if expected <= length <= len(content) - start:
            return
        place = content.find(PIXEL_DATA, place + 1)
    raise UserError(
        f"{file.path}: its header claims {rows}×{columns} pixels of {bits} bits, {expected} bytes, it holds fewer"
    )
