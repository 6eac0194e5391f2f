"""What lies in the folder of a segmentation data set."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from data.catalog.file_index import find
from data.catalog.joins import first_names
from data.datasets.cases import Case, ReadSpec, Region
from utils.errors import UserError
from utils.notes import note


class Layout(NamedTuple):
    """What lies in the folder of a data set."""

    cases: list[Case]
    """By name."""
    test: list[str]
    """Names of those that the data set itself sets aside for testing; none where it does not."""
    test_source: str
    regions: tuple[Region, ...]
    reading: ReadSpec
    exclusive: bool
    """Whether a voxel is of one region at most."""
    channels: int = 1
    norm: str = "bn"
    """The network's normalisation, see :func:`models.segmentation.build_segmenter`."""


def require_complete(root: Path, lacking: Sequence[str], of: int, what: str) -> None:
    """Raise a UserError that counts the cases whose files are not all there, and names the first five."""
    if lacking:
        raise UserError(
            f"--data: {len(lacking)} of {of} {what} in {root} lack files ({first_names(lacking)}); put them there, or "
            f"take these {what} away"
        )


def note_unread(root: Path, read: Collection[str]) -> None:
    """Say on stderr which folders of a data set are not looked into."""
    others = [path.name for path in find(root) if path.is_dir() and path.name not in read]
    if others:
        note(f"--data: of {root} are read {', '.join(read)}, not {first_names(others)}")
