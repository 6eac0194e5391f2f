"""Finds the files that a list names, by one look-up for the whole list."""

import math
import os
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.catalog.folders import is_hidden, walk
from data.catalog.joins import first_names
from data.catalog.lists import cut_list
from data.catalog.names import NameList, join_names
from utils.errors import UserError

ABSENT = -1


class FileIndex:
    """Files of a data set, by name.

    Args:
        folders: the folders that names are relative to.
        names: the names found in each of them.

    Raises:
        UserError: two folders have different files of one name. A file that is linked from another folder counts once.
    """

    def __init__(self, folders: Sequence[Path], names: Sequence[NameList]) -> None:
        self.folders, self.names = list(folders), join_names(list(names))
        hashes = self.names.hashes()
        self.folder_of = np.repeat(np.arange(len(names), dtype=np.uint16), [len(found) for found in names])
        if len(names) == 1:  # all names are in one folder, so that hashes may be sorted without their names
            hashes.sort()
        else:
            order = np.argsort(hashes, kind="stable")
            first = np.append(True, hashes[order[1:]] != hashes[order[:-1]])[: len(order)]
            self._require_linked(order[np.flatnonzero(~first) - 1], order[~first])
            kept = np.zeros(len(order), dtype=bool)
            kept[order[first]] = True
            self.names, self.folder_of = self.names.keep(kept), self.folder_of[order[first]]
            hashes = hashes[order[first]]
        self.hashes = hashes

    def _require_linked(self, before: np.ndarray, again: np.ndarray) -> None:
        """Require that names in two folders, given by their places in the index, are links to one file."""
        folders = [[self.folders[self.folder_of[i]] for i in places] for places in (before, again)]
        pairs = zip([self.names[int(i)] for i in again], *folders, strict=True)
        different = [pair for pair in pairs if not _same_file(*pair)]
        if different:
            name, one, other = different[0]
            raise UserError(
                f"--data: {len(different)} names are in two folders, {name} in {one} and in {other} "
                f"({first_names([name for name, *_ in different])}); keep one file of each name"
            )

    def __len__(self) -> int:
        return len(self.hashes)

    @property
    def where(self) -> str:
        """The folder that contains all folders of the index."""
        return os.path.commonpath(self.folders)

    def join(self, names: NameList, *, source: str | Path) -> "ListedFiles":
        """Look up the files that a list names."""
        return ListedFiles(source, names, self._places(names), self)

    def _places(self, names: NameList) -> np.ndarray:
        hashes = names.hashes()
        if not len(self.hashes):
            return np.full(len(hashes), ABSENT)
        place = np.minimum(_places(self.hashes, hashes), len(self.hashes) - 1)
        place[self.hashes[place] != hashes] = ABSENT
        return place

    def left_over(self, *lists: "ListedFiles") -> NameList:
        """Return the files that none of the lists names."""
        listed = np.zeros(len(self.hashes), dtype=bool)
        for names in lists:
            listed[names.places[names.there]] = True
        if listed.all():
            return NameList.of([])
        return self.names.keep(~listed[self._places(self.names)])


class ListedFiles(NamedTuple):
    """The names of a list, and their files."""

    source: str | Path
    """The list."""
    names: NameList
    places: np.ndarray
    """int64, each name's place in the index; −1 where there is no such file."""
    files: FileIndex

    @property
    def there(self) -> np.ndarray:
        """bool per name: whether there is a file."""
        return self.places != ABSENT

    @property
    def folder_of(self) -> np.ndarray:
        """uint16, the folder of each name; every name must have a file."""
        return self.files.folder_of[self.places]

    def absent(self) -> NameList:
        """Return the names without a file."""
        return self.names.keep(~self.there)

    def without(self, names: Set[str]) -> "ListedFiles":
        """Return the list without some names."""
        if not names:
            return self
        kept = np.fromiter((name not in names for name in self.names), dtype=bool, count=len(self.names))
        return self._replace(names=self.names.keep(kept), places=self.places[kept])

    def cut(self, ratio: float) -> "tuple[ListedFiles, ListedFiles]":
        """Cut the list into its first share, for pre-training, and the rest, for fine-tuning."""
        first, rest = cut_list(self.names, ratio)
        places = np.split(self.places, [len(first)])
        return self._replace(names=first, places=places[0]), self._replace(names=rest, places=places[1])

    def found(self, *, max_bad: float, advice: str = "") -> "ListedFiles":
        """Return the names with a file; those without one count as broken samples.

        Args:
            max_bad: share of the names that may have no file.
            advice: what the error message recommends; unset: what fits a list that a user gave.

        Raises:
            UserError: more are missing, or all; the message counts them and names the first five.
        """
        if self.there.all():
            return self
        absent, n = self.absent(), len(self.names)
        if len(absent) == n or len(absent) > max_bad * n:
            advice = advice or (
                "give --data the data that it lists, or --lists a folder with the list of this data (in an empty one "
                "it will be made)"
            )
            # Rounded up to three digits, so that the share printed is enough.
            enough = math.ceil(1000 * len(absent) / n) / 1000
            tolerate = f"; to continue without them: --max_bad {enough:g}" if len(absent) < n else ""
            raise UserError(
                f"{self.source}: {len(absent)} of its {n} names are not in {self.files.where} "
                f"({first_names(absent)}); {advice}{tolerate}"
            )
        return self._replace(names=self.names.keep(self.there), places=self.places[self.there])


def _same_file(name: str, one: Path, other: Path) -> bool:
    try:
        return (one / name).samefile(other / name)
    except OSError:
        return False


def _places(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return ``np.searchsorted(ordered, values)``.

    Values are searched for in ascending order, which is several times as fast for millions: consecutive searches then
    read the same cache lines.
    """
    # Sort by the upper bits, with the index of each value in its lower bits: far faster than np.argsort.
    index = np.uint64((1 << len(values).bit_length()) - 1)
    order = np.sort((values & ~index) | np.arange(len(values), dtype=np.uint64)) & index
    places = np.empty(len(values), dtype=np.int64)
    places[order] = np.searchsorted(ordered, values[order])
    return places


def require_folder(path: str | Path, option: str = "--data") -> Path:
    """Return the path of a folder that exists and is not empty.

    Raises:
        UserError: it does not exist, is empty or cannot be read.
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


def find(folder: Path, pattern: str = "*") -> list[Path]:
    """Return the sorted paths that match a pattern below a folder, without hidden files; none if there is no folder."""
    return sorted(path for path in folder.glob(pattern) if not is_hidden(path.name))


def names_in(folder: Path, endings: tuple[bytes, ...]) -> NameList:
    """Return the sorted names of the files of one folder with one of the endings, without hidden files.

    Raises:
        UserError: the folder cannot be read.
    """
    try:
        return NameList.of(sorted(_with_ending(os.listdir(os.fsencode(folder)), endings)))
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror or error}") from error


def names_below(folder: Path, endings: tuple[bytes, ...]) -> NameList:
    """Return the sorted paths, relative to a folder, of the files below it with one of the endings, except hidden ones.

    Links to folders are followed, but not in loops, see :func:`data.catalog.folders.walk`.
    """
    found: list[bytes] = []
    for where in walk(folder):
        start = os.fsencode(f"{where.path}/" if where.path else "")
        found += (start + name for name in _with_ending(map(os.fsencode, where.files), endings))
    return NameList.of(sorted(found))


def _with_ending(names: Iterable[bytes], endings: tuple[bytes, ...]) -> Iterator[bytes]:
    return (name for name in names if name.lower().endswith(endings) and not is_hidden(name))
