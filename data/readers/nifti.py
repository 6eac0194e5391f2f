"""Headers of NIfTI-1 and NIfTI-2 (``.nii``, ``.nii.gz``), as far as they say how long a file must be."""

import math
import struct
from pathlib import Path
from typing import NamedTuple

from data.readers.stored import Stored, read_head
from utils.errors import UserError

# Bytes of a voxel by datatype; colours and complex numbers are no scans.
BYTES = {2: 1, 4: 2, 8: 4, 16: 4, 64: 8, 256: 1, 512: 2, 768: 4, 1024: 8, 1280: 8}


class _Fields(NamedTuple):
    """Where a version of NIfTI keeps what is read here: formats of struct and bytes from the start."""

    magic: tuple[int, bytes]
    sizes: tuple[str, int]
    datatype: int
    voxel_offset: tuple[str, int]


# By the number in a header's first four bytes, its own length.
VERSIONS = {
    348: _Fields((344, b"n+1\0"), ("8h", 40), 70, ("f", 108)),
    540: _Fields((4, b"n+2\0"), ("8q", 16), 12, ("q", 168)),
}


def stored_in_nifti(path: Path) -> Stored:
    """Where a NIfTI keeps its voxels.

    Raises:
        UserError: the file is missing, is no NIfTI with its voxels in it, or its header claims what cannot be.
    """
    head, deflated = read_head(path, max(VERSIONS))
    versions = ((order, n) for order in "<>" for n in VERSIONS if len(head) >= n)
    found = [(order, n) for order, n in versions if struct.unpack_from(order + "i", head)[0] == n]
    if not found:
        raise UserError(f"{path}: expected a NIfTI header, found none")
    ((order, length),) = found
    version = VERSIONS[length]
    place, magic = version.magic
    if head[place : place + len(magic)] != magic:
        raise UserError(f"{path}: expected one NIfTI file, header and voxels together ({magic[:3].decode()})")
    dimensions, *sizes = struct.unpack_from(order + version.sizes[0], head, version.sizes[1])
    datatype, bits = struct.unpack_from(order + "2h", head, version.datatype)
    (offset,) = struct.unpack_from(order + version.voxel_offset[0], head, version.voxel_offset[1])
    if not 1 <= dimensions <= len(sizes) or min(sizes[:dimensions]) < 1:
        raise UserError(f"{path}: expected a volume, its header claims {dimensions} dimensions of {sizes}")
    if datatype not in BYTES or bits != 8 * BYTES[datatype]:
        raise UserError(f"{path}: expected one number a voxel, its header claims datatype {datatype} of {bits} bits")
    if not math.isfinite(offset) or offset < 0:
        raise UserError(f"{path}: expected its voxels behind its header, which claims an offset of {offset}")
    # As the library that SimpleITK reads with: voxels begin behind the header and its four bytes of extension.
    return Stored(path, 0, max(int(offset), length + 4), math.prod(sizes[:dimensions]) * BYTES[datatype], deflated)
