"""Find the CT scans below a folder, LUNA16's or a user's own, and give them their names in lists."""

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from data.catalog.folders import walk
from data.catalog.joins import first_names
from data.readers.file_names import SCANS, ending_of, stem_of
from utils.errors import UserError
from utils.notes import note

SUBSET = re.compile(r"subset(\d+)")
# Of LUNA16's ten subsets the published program pre-trains on the first seven and validates on the rest.
VALID_SUBSETS = range(7, 10)
# Characters that a name in a list cannot contain: white space, which ends it, and bytes that are not UTF-8.
UNLISTABLE = re.compile("[ \t\n\r\x0b\x0c\ud800-\udfff]")


def subset_of(folder: str) -> int | None:
    """The number of the LUNA16 subset that a folder (relative to the data set's) is or is in; None for others."""
    numbers = (SUBSET.fullmatch(part) for part in PurePosixPath(folder).parts)
    return next((int(match[1]) for match in numbers if match), None)


def is_subset(folder: str) -> bool:
    """Whether a folder's own name is that of a LUNA16 subset."""
    return SUBSET.fullmatch(PurePosixPath(folder).name) is not None


def split_of(folder: str) -> str:
    """The split of a scan by its folder: ``'valid'`` in subset7 to subset9, otherwise ``'train'``."""
    return "valid" if subset_of(folder) in VALID_SUBSETS else "train"


def list_name(folder: str, name: str) -> str:
    """The name of a scan in lists.

    For LUNA16 it is the file's name alone, as published. For other scans it includes the folder, since the folders of
    two patients may have a file of the same name. Blanks become ``%20``, as in a URL.

    Args:
        folder: the scan's folder relative to the data set's; empty where it is the data set's own.
        name: the file's name without its ending.
    """
    bare = not folder or is_subset(folder)
    return UNLISTABLE.sub(lambda found: f"%{os.fsencode(found[0])[0]:02X}", name if bare else f"{folder}/{name}")


class ScanFile(NamedTuple):
    """A scan in a data set's folder."""

    path: Path
    folder: str
    """Relative to the data set's, ``/`` between parts; empty for the data set's folder itself."""

    @property
    def name(self) -> str:
        """The file's name without its ending; in LUNA16 the series' UID, which contains dots."""
        return stem_of(self.path)

    @property
    def listed(self) -> str:
        """The scan's name in lists."""
        return list_name(self.folder, self.name)


class FoundScans(NamedTuple):
    """The scans below a folder."""

    scans: list[ScanFile]
    unreadable: list[str]
    """One line for each subfolder that cannot be read."""


def find_scans(root: str | Path, *, verbose: bool = True) -> FoundScans:
    """Find all scans below a folder, in order of their paths.

    If folders named ``subset0`` and so on have scans, only these are used, since LUNA16 comes with lung masks in the
    same format. The number of volumes left out is then printed on stderr, if ``verbose``.

    Raises:
        UserError: two scans have the same name.
    """
    root, unreadable = Path(root), list[str]()
    found = [
        ScanFile(root / folder.path / name, folder.path)
        for folder in walk(root, lambda path, error: unreadable.append(f"{path}: {error.strerror or error}"))
        for name in folder.files
        if ending_of(Path(name)) in SCANS
    ]
    in_subsets = [scan for scan in found if is_subset(scan.folder)]
    if verbose and 0 < len(in_subsets) < len(found):
        others = [scan.path.relative_to(root).as_posix() for scan in found if not is_subset(scan.folder)]
        note(f"{root}: only subset folders are used; {len(others)} other volumes are left out ({first_names(others)})")
    scans = sorted(in_subsets or found, key=lambda scan: scan.path)
    _check_names(scans)
    return FoundScans(scans, unreadable)


def holds_scans(root: Path) -> bool:
    """Whether a file below the folder has the ending of a scan."""
    return any(ending_of(Path(name)) in SCANS for folder in walk(root) for name in folder.files)


def _check_names(scans: Sequence[ScanFile]) -> None:
    seen: dict[str, ScanFile] = {}
    for scan in scans:
        if (other := seen.setdefault(scan.listed, scan)) is not scan:
            raise UserError(
                f"--data: expected each scan's name once, {other.path} and {scan.path} are both {scan.listed}; rename "
                "or remove one of them"
            )
