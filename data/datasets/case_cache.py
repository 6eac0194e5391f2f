"""Prepared cases kept in a folder."""

import hashlib
import os
from pathlib import Path

import numpy as np

from data.datasets.cases import Case, Prepared, ReadSpec, read_case
from data.readers.arrays import UNREADABLE
from utils.atomic import whole_file
from utils.errors import UserError


class CaseCache:
    """Prepared cases in a folder, one file an array, made when first asked for and from then on mapped into memory.

    A crop then costs reading the crop, not decompressing and resampling its whole scan.

    Args:
        folder: where they lie.
        reading: how cases are read; another one, or another file, has other names here.
    """

    def __init__(self, folder: str | Path, reading: ReadSpec) -> None:
        self.folder, self.reading = Path(folder), reading

    def file(self, case: Case, field: str) -> Path:
        """The file of one array of a case."""
        facts: list[object] = [tuple(self.reading)]
        for path in (*case.images, case.mask):
            try:
                status = path.stat()
            except OSError:
                raise UserError(f"expected a file of {case.name}, there is none at {path}") from None
            facts.append((str(path.resolve()), status.st_size, status.st_mtime_ns))
        digest = hashlib.blake2b(repr(facts).encode(), digest_size=12).hexdigest()
        return self.folder / f"{case.name.replace(os.sep, '_')}_{digest}_{field}.npy"

    def __call__(self, case: Case) -> Prepared:
        """The case; read and kept first where it is not there yet."""
        files = [self.file(case, field) for field in Prepared._fields]
        if not all(file.exists() for file in files):
            prepared, _ = read_case(case, self.reading)
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"--cache: cannot make {self.folder}: {error.strerror or error}") from error
            for path, array in zip(files, prepared, strict=True):
                with whole_file(path) as file:
                    np.save(file, array)
        try:
            return Prepared(*(np.load(file, mmap_mode="r") for file in files))
        except UNREADABLE as error:
            raise UserError(f"--cache: {files[0]} or one beside it is damaged ({error}); remove it") from None
