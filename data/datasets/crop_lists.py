"""The lists of the 3D data sets of pre-training: the cases whose crops, or whole volumes, are in a folder."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from data.catalog.crop_manifest import MANIFEST, read_failures
from data.catalog.file_index import FileIndex, ListedFiles
from data.catalog.joins import first_names
from data.catalog.lists import list_path, seeded_order, write_list_once
from data.catalog.names import NameList
from utils.errors import UserError
from utils.notes import note

SPLITS = ("train", "valid")


class OfCase(Protocol):
    """A file made from a scan."""

    @property
    def scan(self) -> str: ...


Find = Callable[[str], Sequence[OfCase]]
"""The files of a split; raises UserError where there are none."""


def index_cases(root: Path, files: Sequence[OfCase]) -> FileIndex:
    """Return the index of the cases that files were made from."""
    return FileIndex([root], [NameList.of(sorted({file.scan for file in files}))])


def note_held_out(root: Path, find: Find, held_out: str) -> None:
    """Report on stderr the cases that are not used for pre-training."""
    for split in ("valid", "test") if held_out else ():
        try:
            scans = {file.scan for file in find(split)}
        except UserError:
            continue
        purpose = {"valid": "for validation", "test": "for testing"}[split]
        note(f"{root}: {len(scans)} scans in {held_out} are {purpose}, and not pre-trained on")


def make_crop_lists(lists: Path, *, name: str, root: Path, find: Find, seed: int) -> None:
    """Write the training list and, if there are scans for validation, the validation list of the scans found."""
    for split in SPLITS:
        try:
            scans = {file.scan for file in find(split)}
        except UserError:
            if split == "train":
                raise
            continue
        write_list_once(list_path(lists, name, split), seeded_order(scans, seed), source=str(root))


def leave_out_failed(listed: ListedFiles, root: Path, case_of: Callable[[str], str] = str) -> ListedFiles:
    """Return the listed scans without those that preprocessing recorded as failed, which are counted on stderr.

    They do not count for ``--max_bad`` here, since they did in preprocessing. A failed scan with crops has been
    preprocessed again since, and is kept.
    """
    failures = {case_of(scan) for scan in read_failures(root)}
    failed = np.array([name in failures for name in listed.names], dtype=bool) & ~listed.there
    if not failed.any():
        return listed
    note(
        f"{listed.source}: {int(failed.sum())} of its {len(listed.names)} scans gave no crops when they were "
        f"preprocessed and are left out ({first_names(listed.names.keep(failed))}); {root / MANIFEST} says why"
    )
    return listed._replace(names=listed.names.keep(~failed), places=listed.places[~failed])
