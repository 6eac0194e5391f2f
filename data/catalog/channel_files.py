"""Find the cases below a folder whose channels are files of their own: ``ID_t1.nii.gz``, ``ID_t2.nii.gz``."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data.catalog.file_index import require_folder
from data.catalog.joins import first_names
from data.catalog.scans import MASKS
from data.catalog.volumes import find_volumes
from data.readers.file_names import ending_of, stem_of
from data.readers.images import IMAGES
from data.readers.volumes import Source
from utils.errors import UserError
from utils.notes import note

Suffixes = Sequence[Sequence[str]]
"""By channel, what the names of its files may end in before their file ending."""


class FoundCases(NamedTuple):
    """Cases, each with a name of its own."""

    names: list[str]
    """Paths below the folder of what the files of a case have in common; of ``p/ID/ID_t1.nii.gz`` it is ``p/ID``."""
    channels: list[tuple[Path, ...]]
    """By case and channel, a file; of one that is missing, the path that it should have."""
    refused: list[str]
    """A line for each folder or DICOM series that cannot be read as it is."""


class _Part(NamedTuple):
    """What the name of a channel's file says."""

    stem: Path
    """The case: the file without suffix and ending."""
    channel: int
    kind: int
    """Which of the channel's suffixes it has."""
    path: Path


def find_cases(root: str | Path, suffixes: Suffixes, *, verbose: bool) -> FoundCases:
    """Find the cases of several channels in folders of any depth; masks are left out.

    Volumes whose names end in no suffix are left out, which is reported on stderr.

    Args:
        root: the folder.
        suffixes: of each channel. Of several for a channel, each case has files of one kind: the same place in all.
        verbose: whether to report on stderr what is left out.

    Raises:
        UserError: no such folder, no files of channels in it, or two of one channel of a case.
    """
    root = require_folder(root)
    volumes, refused = find_volumes(root, exclude=MASKS, verbose=verbose)
    parts = [(volume.name, _part_of(volume.source, suffixes)) for volume in volumes]
    cases: dict[Path, dict[int, _Part]] = defaultdict(dict)
    for _, part in parts:
        if part and (other := cases[part.stem].setdefault(part.channel, part)) is not part:
            raise UserError(f"--data: expected one file of a channel, got {other.path} and {part.path}")
    others = [name for name, part in parts if part is None]
    if not cases:
        raise UserError(f"--data: expected files of {_shown(suffixes)} below {root}, found none")
    if others and verbose:
        note(f"{root}: left out: {len(others)} volumes that end in none of {_shown(suffixes)} ({first_names(others)})")
    channels = [_files(stem, found, suffixes) for stem, found in cases.items()]
    return FoundCases([_name(root, stem) for stem in cases], channels, refused)


def without_suffix(name: str, suffixes: Suffixes) -> str:
    """Return the name of a case whose only channel is a file of a name, with or without ``suffixes``."""
    ending = ending_of(Path(name)) if ending_of(Path(name)) in IMAGES else ""
    stem = name[: len(name) - len(ending)]
    found = next((suffix for of_channel in suffixes for suffix in of_channel if stem.endswith(suffix)), "")
    return stem.removesuffix(found) + ending


def _shown(suffixes: Suffixes) -> str:
    return ", ".join(" or ".join(of_channel) for of_channel in suffixes)


def _part_of(source: Source, suffixes: Suffixes) -> _Part | None:
    if not isinstance(source, Path):
        return None
    stem = stem_of(source)
    for channel, of_channel in enumerate(suffixes):
        for kind, suffix in enumerate(of_channel):
            if stem.endswith(suffix) and stem != suffix:
                return _Part(source.with_name(stem.removesuffix(suffix)), channel, kind, source)
    return None


def _files(stem: Path, found: dict[int, _Part], suffixes: Suffixes) -> tuple[Path, ...]:
    """Return the file of each channel; of one that is missing, the path it should have beside the others."""
    one = next(iter(found.values()))
    expected = (stem.with_name(f"{stem.name}{of_channel[one.kind]}{ending_of(one.path)}") for of_channel in suffixes)
    return tuple(found[i].path if i in found else path for i, path in enumerate(expected))


def _name(root: Path, stem: Path) -> str:
    own_folder = stem.parent != root and stem.parent.name == stem.name
    return (stem.parent if own_folder else stem).relative_to(root).as_posix()
