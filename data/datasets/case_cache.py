"""A cache of prepared segmentation cases in a folder."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.catalog.joins import first_names
from data.datasets.cases import Case, Prepared, ReadSpec, read_case
from data.readers.arrays import read_array
from data.readers.volumes import source_files
from utils.atomic import whole_file
from utils.errors import UserError
from utils.fingerprint import fingerprint_of
from utils.notes import note

# Increased when the same files give other arrays than before, so that cases in older caches are prepared again.
VERSION = 2
# Bytes of a case's name in a file name: of the 255 that file systems allow, digest and temporary suffix need some.
LONGEST_NAME = 100

LAST_FIELD = Prepared._fields[-1]
LAST_ENDING = f"_{LAST_FIELD}.npy"


class CaseCache:
    """Prepared cases in a folder, one file per array, written when first needed and later mapped into memory.

    A crop then needs only its own bytes, instead of decompressing and resampling its whole scan.

    Args:
        folder: where they are stored.
        reading: how cases are read. Names of stored files depend on it, and on path, size and modification time of the
            files of the case.
    """

    def __init__(self, folder: str | Path, reading: ReadSpec) -> None:
        self.folder, self.reading = Path(folder), reading

    def file(self, case: Case, field: str) -> Path:
        """Return the path of one array of a case."""
        facts: list[object] = [VERSION, tuple(self.reading)]
        for source in (*case.images, case.mask):
            try:
                if isinstance(source, Path):
                    source.stat()
                files = [(str(file.resolve()), file.stat()) for file in source_files(source)] if source else []
            except OSError:
                raise UserError(f"expected a file of {case.name}, there is none at {source}") from None
            facts += [(name, status.st_size, status.st_mtime_ns) for name, status in files]
        digest = fingerprint_of(repr(facts), size=12)
        return self.folder / f"{_short(case.name)}_{digest}_{field}.npy"

    def note_outdated(self, cases: Sequence[Case]) -> None:
        """Report on stderr the cases that were prepared from other files, with other settings or by another version."""
        if not self.folder.is_dir():
            return
        prepared = {name.removesuffix(LAST_ENDING) for name in os.listdir(self.folder) if name.endswith(LAST_ENDING)}
        before = {name.rpartition("_")[0] for name in prepared}
        outdated = [case.name for case in cases if _short(case.name) in before and not self._has(case, prepared)]
        if outdated:
            note(
                f"--cache: {len(outdated)} of {len(cases)} cases in {self.folder} were prepared from other files, with "
                f"other settings or by another version, and are prepared again ({first_names(outdated)})"
            )

    def _has(self, case: Case, prepared: set[str]) -> bool:
        try:
            return self.file(case, LAST_FIELD).name.removesuffix(LAST_ENDING) in prepared
        except UserError:  # reported when the case is read
            return True

    def __call__(self, case: Case) -> Prepared:
        """Return the prepared case; it is read and stored first if it is not in the cache."""
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
        return Prepared(
            *(read_array(file, what="a prepared case of --cache (remove it)", mapped=True) for file in files)
        )


def _short(name: str) -> str:
    """Return the beginning of the file names of a case."""
    return os.fsencode(name.replace("/", "_"))[:LONGEST_NAME].decode("utf-8", "ignore")
