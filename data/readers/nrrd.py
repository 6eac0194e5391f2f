"""Reading of headers of NRRD files, as far as they determine the length of a file."""

import math
import re
from pathlib import Path

from data.readers.stored import Stored, read_head
from utils.errors import UserError

LARGEST_HEADER = 1 << 16  # bytes
# Bytes of a voxel by NRRD's names of its type.
TYPES = {
    1: "signed char,int8,int8_t,uchar,unsigned char,uint8,uint8_t",
    2: "short,short int,signed short,signed short int,int16,int16_t,ushort,unsigned short,unsigned short int,uint16,"
    "uint16_t",
    4: "int,signed int,int32,int32_t,uint,unsigned int,uint32,uint32_t,float",
    8: "longlong,long long,long long int,signed long long,signed long long int,int64,int64_t,ulonglong,"
    "unsigned long long,unsigned long long int,uint64,uint64_t,double",
}
BYTES = {name: size for size, names in TYPES.items() for name in names.split(",")}
# Fields of files whose voxels do not directly follow the header.
ELSEWHERE = ("data file", "datafile", "line skip", "lineskip", "byte skip", "byteskip")
DEFLATED = {"raw": False, "gzip": True, "gz": True}


def stored_in_nrrd(path: Path) -> Stored:
    """Find the voxels of a NRRD.

    Raises:
        UserError: the file is missing, is not a NRRD with its voxels in it, or has an encoding without length or check
            sum.
    """
    head, _ = read_head(path, LARGEST_HEADER)
    end = re.search(rb"\r?\n\r?\n", head)
    if not head.startswith(b"NRRD") or not end:
        raise UserError(f"{path}: expected a NRRD header that an empty line ends, found none")
    lines = head[: end.start()].decode("latin-1").split("\n")[1:]
    pairs = (line.partition(":") for line in lines if not line.startswith("#") and ":=" not in line)
    fields = {key.strip().lower(): value.strip() for key, _, value in pairs}
    if any(fields.get(key, "0") != "0" for key in ELSEWHERE):
        raise UserError(f"{path}: expected a NRRD whose voxels follow its header at once")
    encoding = fields.get("encoding", "none").lower()
    if encoding not in DEFLATED:
        raise UserError(f"{path}: expected an encoding of {', '.join(DEFLATED)}, got {encoding!r}")
    kind = fields.get("type", "none").lower()
    if kind not in BYTES:
        raise UserError(f"{path}: expected a type of one number a voxel, got {kind!r}")
    sizes = fields.get("sizes", "").split()
    if not sizes or not all(word.isdecimal() and int(word) for word in sizes):
        raise UserError(f"{path}: expected sizes of whole numbers above 0, got {fields.get('sizes', 'none')!r}")
    return Stored(path, end.end(), 0, math.prod(map(int, sizes)) * BYTES[kind], DEFLATED[encoding])
