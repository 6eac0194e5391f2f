"""Find the volumes below a folder, LUNA16's or a user's own, and give them their names in lists."""

import re
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from data.catalog.folders import walk
from data.catalog.joins import first_names
from data.catalog.name_matching import listed_name
from data.readers.file_names import SCANS, ending_of, stem_of
from utils.errors import UserError
from utils.notes import note

SUBSET = re.compile(r"subset(\d+)")
# Of LUNA16's ten subsets the published program pre-trains on the first seven and validates on the rest.
VALID_SUBSETS = range(7, 10)
MASKS = ("*_seg", "*-seg", "*_segm", "*_mask", "segmentation*", "masks/", "labels*/", "seg/")
"""Patterns of volumes that are no images but masks: of names without ending or, with a slash, of folders."""


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
    two patients may have a file of the same name. Blanks become ``%20``, as in a URL, and ``%`` becomes ``%25``.

    Args:
        folder: the scan's folder relative to the data set's; empty where it is the data set's own.
        name: the file's name without its ending.
    """
    bare = not folder or is_subset(folder)
    return listed_name(name if bare else f"{folder}/{name}")


class ScanFile(NamedTuple):
    """A scan in a data set's folder."""

    path: Path
    folder: str
    """Relative to the data set's, ``/`` between parts; empty for the data set's folder itself."""
    name: str
    """The file's name without its ending, in LUNA16 the series' UID; with it where there are two of one name."""

    @property
    def listed(self) -> str:
        """The scan's name in lists."""
        return list_name(self.folder, self.name)


class FoundScans(NamedTuple):
    """The scans below a folder."""

    scans: list[ScanFile]
    unreadable: list[str]
    """One line for each subfolder that cannot be read."""


def find_scans(root: str | Path, *, exclude: Sequence[str] = (), verbose: bool = True) -> FoundScans:
    """Find all scans below a folder, in order of their paths.

    If folders named ``subset0`` and so on have scans, only these are used, since LUNA16 comes with lung masks in the
    same format. The number of volumes left out is then printed on stderr, if ``verbose``.

    Args:
        root: the folder.
        exclude: patterns as MASKS of other scans to leave out, in any case, which is printed too.
        verbose: whether to print.

    Raises:
        UserError: two scans of LUNA16 have the same name.
    """
    root, unreadable = Path(root), list[str]()
    found = [
        ScanFile(root / folder.path / name, folder.path, stem_of(Path(name)))
        for folder in walk(root, lambda path, error: unreadable.append(f"{path}: {error.strerror or error}"))
        for name in folder.files
        if ending_of(Path(name)) in SCANS
    ]
    in_subsets = [scan for scan in found if is_subset(scan.folder)]
    used = in_subsets or [scan for scan in found if not _is_excluded(scan, exclude)]
    if verbose and len(used) < len(found):
        paths = {scan.path for scan in used}
        others = [scan.path.relative_to(root).as_posix() for scan in found if scan.path not in paths]
        which = f"{len(others)} other volumes are left out ({first_names(others)})"
        note(
            f"{root}: only subset folders are used; {which}"
            if in_subsets
            else f"{root}: {which}, by their names, as masks"
        )
    scans = _with_own_names(sorted(used, key=lambda scan: scan.path))
    _check_names(scans)
    return FoundScans(scans, unreadable)


def _is_excluded(scan: ScanFile, patterns: Sequence[str]) -> bool:
    folders = [f"{part}/" for part in scan.folder.lower().split("/")]
    return any(fnmatchcase(name, pattern.lower()) for name in (scan.name.lower(), *folders) for pattern in patterns)


def _with_own_names(scans: Sequence[ScanFile]) -> list[ScanFile]:
    """Return the scans, with the whole file name as name where two in one folder differ only in their endings."""
    count = Counter((scan.folder, scan.name) for scan in scans if not is_subset(scan.folder))
    return [
        scan._replace(name=scan.path.name) if count[scan.folder, scan.name] > 1 else scan for scan in scans
    ]  # fmt: skip


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
