"""The cases of a segmentation data set and how they are read."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from data.catalog.file_index import find
from data.catalog.joins import first_names
from data.datasets.cases import Case, ReadSpec, Region
from utils.errors import UserError
from utils.notes import note


class Layout(NamedTuple):
    """A segmentation data set: its cases, test split, regions, and how it is read and trained."""

    cases: list[Case]
    """In a fixed order, by their names."""
    test: list[str]
    """Names of the cases of the data set's own test split; empty if it has none."""
    test_source: str
    """Where that split comes from, in words."""
    regions: tuple[Region, ...]
    reading: ReadSpec
    exclusive: bool
    """Whether a voxel is in one region at most."""
    channels: int = 1
    norm: str = "bn"
    """The network's normalisation, see :func:`models.segmentation.build_segmenter`."""
    suffixes: tuple[tuple[str, ...], ...] = ()
    """By channel, what the names of its files may end in before their file ending; empty where a case is one file of
    any name."""
    unmasked: Sequence[str] = ()
    """Names of cases without a mask, which are not used; lists of pre-training may have them."""


def require_complete(root: Path, incomplete: Sequence[str], total: int, what: str) -> None:
    """Raise a UserError if cases have missing files; it counts them and names the first five."""
    if incomplete:
        raise UserError(
            f"--data: {len(incomplete)} of {total} {what} in {root} lack files ({first_names(incomplete)}); add "
            f"the files, or remove these {what}"
        )


def note_unread(root: Path, read: Collection[str]) -> None:
    """Report on stderr which folders of a data set are not read."""
    others = [path.name for path in find(root) if path.is_dir() and path.name not in read]
    if others:
        note(f"--data: of {root} are read {', '.join(read)}, not {first_names(others)}")
