"""Patients and views as DICOM files have them, read from many files at once."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from data.readers.dicom_tags import open_dicom
from data.readers.file_names import ending_of
from data.readers.images import PICTURES
from utils.errors import UserError
from utils.progress import progress
from utils.world import read_world

# Each header may wait for a network file system.
THREADS = 16


def read_attributes(root: Path, names: Sequence[str], tag: str) -> dict[str, str]:
    """Return an attribute of those files that are DICOM and have it.

    Files that cannot be read have none; loading them reports what is wrong.

    Args:
        root: the folder of the files.
        names: of the files, relative to it.
        tag: one of :mod:`data.readers.dicom_tags`.
    """
    chosen = [name for name in names if ending_of(Path(name)) not in PICTURES]
    with ThreadPoolExecutor(THREADS) as pool:
        values = progress(
            pool.map(partial(_attribute, root, tag), chosen), name="DICOM headers", unit="file", total=len(chosen),
            active=bool(chosen) and read_world().is_main,
        )  # fmt: skip
        return {name: value for name, value in zip(chosen, values, strict=True) if value}


def _attribute(root: Path, tag: str, name: str) -> str:
    try:
        return open_dicom(root / name).text(tag)
    except UserError:
        return ""
