"""Reading and checking of headers of NIfTI-1 (``.nii``, ``.nii.gz``), whose errors SimpleITK does not report.

SimpleITK replaces a spacing of 0 by 1 mm and NaN by 0, and if ``a.nii`` and ``a.nii.gz`` are in one folder, it reads
the voxels of ``a.nii`` for both.
"""

import math
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.readers.stored import Stored, read_head
from utils.errors import UserError

LENGTH, LENGTH_OF_2 = 348, 540  # bytes of a header, which are also its first number; those of NIfTI-2
# NumPy's type by NIfTI's datatype, without colours and complex numbers, which scans do not have.
KINDS = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
SCALE_TOLERANCE = 0.01  # relative difference allowed between the two spacings of a header


class _Header(NamedTuple):
    """The fields that are read, by their names in nifti1.h."""

    dim: tuple[int, ...]
    datatype: int
    bitpix: int
    pixdim: tuple[float, ...]
    vox_offset: float
    qform_code: int
    sform_code: int
    srow: np.ndarray
    magic: bytes


def stored_in_nifti(path: Path) -> Stored:
    """Find the voxels of a NIfTI.

    Raises:
        UserError: the file is missing, is not a NIfTI-1 with its voxels in it, or its header is not valid.
    """
    head, deflated = read_head(path, LENGTH)
    twin = path.with_suffix("")
    if path.suffix.lower() == ".gz" and twin.exists():
        raise UserError(f"{path}: {twin.name} beside it is the one whose voxels would be read; remove one of the two")
    order = next((order for order in "<>" if head[:4] == struct.pack(order + "i", LENGTH)), "")
    if not order or len(head) < LENGTH:
        newer = head[:4] in (struct.pack("<i", LENGTH_OF_2), struct.pack(">i", LENGTH_OF_2))
        raise UserError(f"{path}: expected a NIfTI-1 header, found {'NIfTI-2; convert it' if newer else 'none'}")
    header = _unpack(head, order)
    if header.magic != b"n+1\0":
        raise UserError(f"{path}: expected one NIfTI file, header and voxels together (n+1)")
    dimensions, *sizes = header.dim
    if not 3 <= dimensions <= len(sizes) or min(sizes[:dimensions]) < 1:
        raise UserError(f"{path}: expected a volume, its header claims {dimensions} dimensions of {sizes}")
    kind = KINDS.get(header.datatype)
    if kind is None or header.bitpix != 8 * np.dtype(kind).itemsize:
        raise UserError(
            f"{path}: expected one number a voxel, its header claims datatype {header.datatype} of {header.bitpix} bits"
        )
    if not header.vox_offset >= LENGTH + 4 or not math.isfinite(header.vox_offset):
        raise UserError(f"{path}: expected voxels behind its header and extension, at byte {header.vox_offset}")
    _check_spacing(path, header)
    length = math.prod(sizes[:dimensions]) * np.dtype(kind).itemsize
    return Stored(path, 0, int(header.vox_offset), length, deflated, order + kind if kind[0] == "f" else "")


def _unpack(head: bytes, order: str) -> _Header:
    def read(kinds: str, place: int) -> tuple[float, ...]:
        return struct.unpack_from(order + kinds, head, place)

    sizes = struct.unpack_from(order + "8h", head, 40)
    datatype, bitpix = struct.unpack_from(order + "2h", head, 70)
    qform_code, sform_code = struct.unpack_from(order + "2h", head, 252)
    srow = np.array(read("12f", 280)).reshape(3, 4)
    return _Header(
        sizes, datatype, bitpix, read("8f", 76), read("f", 108)[0], qform_code, sform_code, srow, head[344:348]
    )


def _check_spacing(path: Path, header: _Header) -> None:
    spacing = np.abs(header.pixdim[1:4])
    if not (np.isfinite(spacing) & (spacing > 0)).all():
        raise UserError(f"{path}: expected a spacing above 0 mm, its header claims {header.pixdim[1:4]}")
    # With a qform, SimpleITK uses that, and the sform may lead into the space of an atlas.
    if header.sform_code > 0 and header.qform_code == 0:
        steps = np.linalg.norm(header.srow[:, :3], axis=0)
        if not np.allclose(steps, spacing, rtol=SCALE_TOLERANCE):
            raise UserError(
                f"{path}: expected one spacing, its header claims {spacing.tolist()} mm in pixdim and "
                f"{steps.tolist()} mm in its sform"
            )
