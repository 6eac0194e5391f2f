"""Which of the files that a list names are there, and where; looked up once for the whole list."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from data.catalog.names import NameList, join_names
from utils.errors import UserError

SHOWN = 5


class FileIndex:
    """Where files lie, by name.

    Args:
        folders: the folders that names are relative to.
        names: the names found in each of them.
    """

    def __init__(self, folders: Sequence[Path], names: Sequence[NameList]) -> None:
        self.folders, self.names = list(folders), join_names(list(names))
        hashes = self.names.hashes()
        self.folder_of = np.repeat(np.arange(len(names), dtype=np.uint16), [len(part) for part in names])
        if len(names) == 1:  # which name has which hash matters only for their folders
            hashes.sort()
        else:
            order = np.argsort(hashes, kind="stable")
            hashes, self.folder_of = hashes[order], self.folder_of[order]
        self.hashes = hashes

    def locate(self, wanted: NameList, *, source: str | Path) -> np.ndarray:
        """uint16, the folder of each wanted name.

        Raises:
            UserError: files are missing; says how many, and the first five.
        """
        hashes = wanted.hashes()
        place = np.minimum(_places(self.hashes, hashes), max(len(self.hashes) - 1, 0))
        found = self.hashes[place] == hashes if len(self.hashes) else np.zeros(len(hashes), dtype=bool)
        if not found.all():
            missing = np.flatnonzero(~found)
            first = ", ".join(wanted[int(i)] for i in missing[:SHOWN])
            raise UserError(
                f"{source}: {len(missing)} of its {len(wanted)} names are not in "
                f"{os.path.commonpath(self.folders)} ({first}"
                f"{', ...' if len(missing) > SHOWN else ''}); give --data the data that it lists, or --lists a folder "
                "with the list of this data (in an empty one it will be made)"
            )
        return self.folder_of[place]


def _places(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """``np.searchsorted``, nearly in the values' order of size: several times as fast for millions, since neighbours
    share what is in the processor's cache."""
    # By their upper bits, with their index in the lower ones: sorting numbers is far faster than np.argsort.
    index = np.uint64((1 << len(values).bit_length()) - 1)
    order = np.sort((values & ~index) | np.arange(len(values), dtype=np.uint64)) & index
    places = np.empty(len(values), dtype=np.int64)
    places[order] = np.searchsorted(ordered, values[order])
    return places


def require_folder(path: str | Path, option: str = "--data") -> Path:
    """A folder that is there and not empty.

    Raises:
        UserError: it is not.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{option}: expected a folder, there is none at {path}")
    try:
        empty = all(is_hidden(entry.name) for entry in os.scandir(path))
    except OSError as error:
        raise UserError(f"{option}: cannot read {path}: {error.strerror or error}") from error
    if empty:
        raise UserError(f"{option}: {path} is empty")
    return path


def is_hidden(name: str | bytes) -> bool:
    """Whether a name begins with a dot: what systems leave beside people's files, as macOS's ``._00000001_000.png``."""
    return name[:1] in (".", b".")


def find(folder: Path, pattern: str = "*") -> list[Path]:
    """What matches a pattern below a folder, in order, hidden files left out; nothing where there is no folder."""
    return sorted(path for path in folder.glob(pattern) if not is_hidden(path.name))


def names_in(folder: Path, endings: tuple[bytes, ...]) -> NameList:
    """The files of one folder with one of the endings, by name, hidden ones left out."""
    return NameList.of(sorted(_with_ending(os.listdir(os.fsencode(folder)), endings)))


def names_below(folder: Path, endings: tuple[bytes, ...]) -> NameList:
    """The files anywhere below a folder with one of the endings, by their path from it, hidden ones left out."""
    start = os.fsencode(folder)
    found: list[bytes] = []
    for where, folders, files in os.walk(start):
        # os.walk goes where this list says.
        folders[:] = [name for name in folders if not is_hidden(name)]
        found += (os.path.relpath(where + b"/" + name, start) for name in _with_ending(files, endings))
    return NameList.of(sorted(found))


def _with_ending(names: Iterable[bytes], endings: tuple[bytes, ...]) -> Iterator[bytes]:
    return (name for name in names if name.lower().endswith(endings) and not is_hidden(name))
