"""Find every volume below a folder: LUNA16's scans, or files and DICOM series in any folders."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data.catalog.dicom_scans import find_series
from data.catalog.scans import find_scans, is_subset
from data.readers.volumes import Source


class FoundVolume(NamedTuple):
    """A volume: a file, or a DICOM series."""

    source: Source
    folder: str
    """Relative to the folder that was searched, empty for that folder itself."""
    name: str


def find_volumes(root: Path, *, exclude: Sequence[str], verbose: bool) -> tuple[list[FoundVolume], list[str]]:
    """Find LUNA16's scans below a folder or, if it has no subset folders, all volumes and DICOM series.

    Args:
        root: the folder.
        exclude: patterns of names that are left out, see :func:`data.catalog.scans.find_scans`.
        verbose: whether to report on stderr what is left out.

    Returns:
        The volumes, and a line for each folder or series that cannot be read as it is.

    Raises:
        UserError: no such folder.
    """
    found = find_scans(root, exclude=exclude, verbose=verbose)
    volumes = [FoundVolume(scan.path, scan.folder, scan.name) for scan in found.scans]
    refused = list(found.unreadable)
    if not any(is_subset(volume.folder) for volume in volumes):
        series = find_series(root, verbose=verbose)
        for one in series.series:
            folder = "" if one.folder == root else one.folder.relative_to(root).as_posix()
            volumes.append(FoundVolume(one, folder, one.uid))
        refused += series.refused
    return volumes, refused
