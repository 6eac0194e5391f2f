"""A cache of prepared segmentation cases in a folder."""

from collections.abc import Sequence
from pathlib import Path

from data.datasets.cases import Case, Prepared, ReadSpec, read_case
from data.datasets.prepared_files import PreparedFiles, Sources

# Increased when the same files give other arrays than before, so that cases in older caches are prepared again.
VERSION = 2


class CaseCache:
    """Prepared cases in a folder: a crop then needs only its own bytes, instead of decompressing and resampling a scan.

    Args:
        folder: where they are stored, see :class:`data.datasets.prepared_files.PreparedFiles`.
        reading: how cases are read.
    """

    def __init__(self, folder: str | Path, reading: ReadSpec) -> None:
        self.reading = reading
        self.files = PreparedFiles(
            folder, settings=[VERSION, tuple(reading)], fields=Prepared._fields, what=("case", "cases")
        )  # fmt: skip

    def note_outdated(self, cases: Sequence[Case]) -> None:
        """Report on stderr the cases that were prepared from other files, with other settings or by another version."""
        self.files.note_outdated({case.name: _sources(case) for case in cases})

    def __call__(self, case: Case) -> Prepared:
        """Return the prepared case; it is read and stored first if it is not in the cache."""
        return Prepared(*self.files.get(case.name, _sources(case), lambda: read_case(case, self.reading)[0]))


def _sources(case: Case) -> Sources:
    return (*case.images, case.mask)
