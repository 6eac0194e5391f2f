"""MetaImage scans for tests, written by hand so that they can be wrong in every way."""

from pathlib import Path

import numpy as np

TYPES = {"int16": "MET_SHORT", "uint8": "MET_UCHAR", "float32": "MET_FLOAT"}


def write_scan(path, volume, *, spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0), **fields):
    """Write a scan, array (z, y, x); ``fields`` replace lines of its header, None removes one."""
    path = Path(path)
    header = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": " ".join(map(str, origin)),
        "ElementSpacing": " ".join(map(str, spacing)),
        "DimSize": " ".join(map(str, volume.shape[::-1])),
        "ElementType": TYPES[volume.dtype.name],
        "ElementDataFile": path.with_suffix(".raw").name,
    } | fields
    header["ElementDataFile"] = header.pop("ElementDataFile")  # which ends a header
    path.with_suffix(".raw").write_bytes(np.ascontiguousarray(volume).tobytes())
    path.write_text("".join(f"{key} = {value}\n" for key, value in header.items() if value is not None))
    return path


def lung(shape=(60, 110, 100), seed=0):
    """A scan (z, y, x) that is mostly lung, so that every box gives a crop: int16 HU."""
    volume = np.random.default_rng(seed).normal(-850, 40, size=shape)
    volume[:, : shape[1] // 12] = 40
    return volume.astype(np.int16)
