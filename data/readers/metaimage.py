"""Reading and checking of headers of MetaImage (``.mhd`` with its ``.raw`` or ``.zraw``, ``.mha``)."""

import math
import re
from pathlib import Path

from data.readers.geometry import LARGEST_SIDE, require_spacing
from data.readers.stored import Stored
from utils.errors import UserError

# Longer ones are not headers.
LARGEST_HEADER = 1 << 16  # bytes
BYTES = {
    "MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4, "MET_UINT": 4, "MET_FLOAT": 4,
    "MET_DOUBLE": 8, "MET_LONG_LONG": 8, "MET_ULONG_LONG": 8,
}  # fmt: skip
# Fields that may occur more than once, since they have no effect.
REPEATABLE = {"", "Comment"}
# MetaImage takes a value as true if it begins with one of these.
TRUE = ("T", "t", "1")
FROM_THE_END = -1  # HeaderSize: the voxels are the last bytes of the file


def stored_in_metaimage(path: Path) -> Stored:
    """Find the voxels of a MetaImage.

    Raises:
        UserError: the file is missing, is not a MetaImage header of a 3D scan, or has an absurd size or spacing; or its
            data file is missing or in another folder.
    """
    fields, end = _fields(path)
    if fields.get("NDims") != "3":
        raise UserError(f"{path}: expected NDims = 3, got {fields.get('NDims', 'none')}")
    if fields.get("ElementNumberOfChannels", "1") != "1":
        raise UserError(f"{path}: expected one value a voxel, got {fields['ElementNumberOfChannels']}")
    sizes = _numbers(path, fields, "DimSize")
    spacing = _numbers(path, fields, "ElementSpacing" if "ElementSpacing" in fields else "ElementSize")
    if not all(n == int(n) and 1 <= n <= LARGEST_SIDE for n in sizes):
        raise UserError(f"{path}: expected DimSize of whole numbers from 1 to {LARGEST_SIDE}, got {fields['DimSize']}")
    require_spacing(path, spacing)
    kind = fields.get("ElementType", "none")
    if kind not in BYTES:
        raise UserError(f"{path}: expected an ElementType of {', '.join(BYTES)}, got {kind!r}")
    if not fields.get("BinaryData", "True").startswith(TRUE):
        raise UserError(f"{path}: expected BinaryData = True, got {fields['BinaryData']!r}")
    file = _data_file(path, fields)
    length, start = int(math.prod(sizes)) * BYTES[kind], end if file == path else 0
    deflated = fields.get("CompressedData", "False").startswith(TRUE)
    return Stored(file, _skipped(path, fields, start, file, length), 0, length, deflated)


def _fields(path: Path) -> tuple[dict[str, str], int]:
    """Read ``Key = value`` lines up to ElementDataFile, which ends a header; return them and their bytes."""
    try:
        with open(path, "rb") as file:
            text = file.read(LARGEST_HEADER).decode("latin-1")
    except FileNotFoundError:
        raise UserError(f"expected a scan, there is no file {path}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    fields: dict[str, str] = {}
    end = 0
    for line in text.split("\n"):
        end += len(line) + 1
        key, _, value = (part.strip() for part in re.sub("[=:]", "=", line, count=1).partition("="))
        if key in fields and key not in REPEATABLE:
            raise UserError(f"{path}: expected {key} once, it is there twice")
        fields[key] = value
        if key == "ElementDataFile":
            return fields, end
    raise UserError(f"{path}: expected a MetaImage header with an ElementDataFile, found none")


def _numbers(path: Path, fields: dict[str, str], key: str) -> tuple[float, float, float]:
    words = fields.get(key, "").split()
    try:
        x, y, z = (float(word) for word in words)
    except ValueError:
        raise UserError(f"{path}: expected three numbers as {key}, got {fields.get(key, 'none')!r}") from None
    if not all(map(math.isfinite, (x, y, z))):
        raise UserError(f"{path}: expected finite numbers as {key}, got {fields[key]!r}")
    return x, y, z


def _data_file(path: Path, fields: dict[str, str]) -> Path:
    """Return the data file, in the header's folder; files elsewhere, patterns and lists of files are refused."""
    name = fields["ElementDataFile"]
    if name.upper() == "LOCAL":
        return path
    if not name or "/" in name or "\\" in name or "%" in name or name == "LIST" or name.startswith("LIST "):
        raise UserError(f"{path}: expected one file in its own folder as ElementDataFile, got {name!r}")
    data = path.with_name(name)
    if not data.is_file():
        raise UserError(f"{path}: expected its data in {data}, there is no such file")
    return data


def _skipped(path: Path, fields: dict[str, str], start: int, file: Path, length: int) -> int:
    """Return how many bytes of the data file are before its voxels."""
    size = fields.get("HeaderSize", "0")
    try:
        skipped = int(size)
    except ValueError:
        raise UserError(f"{path}: expected a whole number as HeaderSize, got {size!r}") from None
    if skipped == 0:
        return start
    return max(file.stat().st_size - length, 0) if skipped == FROM_THE_END else skipped
