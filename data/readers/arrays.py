"""Reading of arrays in ``.npy`` files."""

import os
import tokenize
import zipfile
from pathlib import Path

import numpy as np

from utils.errors import UserError

# What NumPy raises for files that are cut short or in another format.
UNREADABLE = (
    OSError, ValueError, EOFError, MemoryError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile,
)  # fmt: skip


def read_array(path: Path, *, what: str, mapped: bool = False) -> np.ndarray:
    """Read the array of a ``.npy`` file, of any shape and any type except objects.

    Args:
        path: the file.
        what: what it should hold, for errors: ``'voxels'``.
        mapped: map the file into memory instead of reading it, so that only the parts used are read.

    Raises:
        UserError: the file is missing, damaged, cut short, too long or in another format.
    """
    try:
        with open(path, "rb") as file:
            array = np.load(path if mapped else file, mmap_mode="r" if mapped else None, allow_pickle=False)
            if not isinstance(array, np.ndarray):
                raise ValueError("an archive of arrays")
            end = array.offset + array.nbytes if isinstance(array, np.memmap) else file.tell()
            if file.seek(0, os.SEEK_END) != end:
                raise ValueError("bytes behind its end")
            return array
    except FileNotFoundError:
        raise UserError(f"expected {what}, there is no file {path}") from None
    except UNREADABLE as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: expected an array of {what}, it is damaged or something else ({reason})") from None
