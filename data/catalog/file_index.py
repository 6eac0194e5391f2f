"""Which of the files that a list names are there, and where; looked up once for the whole list."""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
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
    """Where files lie, by name.

    Args:
        folders: the folders that names are relative to.
        names: the names found in each of them.

    Raises:
        UserError: two files of one name lie in two folders. One that is linked from the other is taken once.
    """

    def __init__(self, folders: Sequence[Path], names: Sequence[NameList]) -> None:
        self.folders, self.names = list(folders), join_names(list(names))
        hashes = self.names.hashes()
        self.folder_of = np.repeat(np.arange(len(names), dtype=np.uint16), [len(part) for part in names])
        if len(names) == 1:  # which name has which hash matters only for their folders
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
        """Of names in two folders, given by their places in either, one file must be a link to the other."""
        homes = [[self.folders[self.folder_of[i]] for i in places] for places in (before, again)]
        pairs = zip([self.names[int(i)] for i in again], *homes, strict=True)
        apart = [pair for pair in pairs if not _same_file(*pair)]
        if apart:
            name, one, other = apart[0]
            raise UserError(
                f"--data: {len(apart)} names are in two folders, {name} in {one} and in {other} "
                f"({first_names([name for name, *_ in apart])}); keep one file of each name"
            )

    def __len__(self) -> int:
        return len(self.hashes)

    @property
    def where(self) -> str:
        """The folder that all others are in."""
        return os.path.commonpath(self.folders)

    def join(self, names: NameList, *, source: str | Path) -> "ListedFiles":
        """A list and the files that it names."""
        return ListedFiles(source, names, self._places(names), self)

    def _places(self, names: NameList) -> np.ndarray:
        hashes = names.hashes()
        if not len(self.hashes):
            return np.full(len(hashes), ABSENT)
        place = np.minimum(_places(self.hashes, hashes), len(self.hashes) - 1)
        place[self.hashes[place] != hashes] = ABSENT
        return place

    def left_over(self, *lists: "ListedFiles") -> NameList:
        """The files that none of the lists names."""
        listed = np.zeros(len(self.hashes), dtype=bool)
        for names in lists:
            listed[names.places[names.there]] = True
        if listed.all():
            return NameList.of([])
        return self.names.keep(~listed[self._places(self.names)])


class ListedFiles(NamedTuple):
    """The names of a list, and which of them are in a folder."""

    source: str | Path
    """The list."""
    names: NameList
    places: np.ndarray
    """int64, each name's place in the index; −1 where there is no such file."""
    files: FileIndex

    @property
    def there(self) -> np.ndarray:
        """bool, the names with a file."""
        return self.places != ABSENT

    @property
    def folder_of(self) -> np.ndarray:
        """uint16, the folder of each name, all of which must be there."""
        return self.files.folder_of[self.places]

    def absent(self) -> NameList:
        """The names without a file."""
        return self.names.keep(~self.there)

    def cut(self, ratio: float) -> "tuple[ListedFiles, ListedFiles]":
        """The first share, which pre-trains, and the rest, for fine-tuning."""
        first, rest = cut_list(self.names, ratio)
        places = np.split(self.places, [len(first)])
        return self._replace(names=first, places=places[0]), self._replace(names=rest, places=places[1])

    def found(self, *, max_bad: float, advice: str = "") -> "ListedFiles":
        """The names with a file; the others count as broken samples.

        Args:
            max_bad: share of the names that may lack one.
            advice: what to do about it; unset: that of lists which people gave.

        Raises:
            UserError: more are missing, or all of them; says how many, and the first five.
        """
        if self.there.all():
            return self
        absent, n = self.absent(), len(self.names)
        if len(absent) == n or len(absent) > max_bad * n:
            advice = advice or (
                "give --data the data that it lists, or --lists a folder with the list of this data (in an empty one "
                "it will be made)"
            )
            # As few digits as tell a share that is enough.
            enough = math.ceil(1000 * len(absent) / n) / 1000
            go_on = f"; to go on without them: --max_bad {enough:g}" if len(absent) < n else ""
            raise UserError(
                f"{self.source}: {len(absent)} of its {n} names are not in {self.files.where} "
                f"({first_names(absent)}); {advice}{go_on}"
            )
        return self._replace(names=self.names.keep(self.there), places=self.places[self.there])


def _same_file(name: str, one: Path, other: Path) -> bool:
    try:
        return (one / name).samefile(other / name)
    except OSError:
        return False


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


def find(folder: Path, pattern: str = "*") -> list[Path]:
    """What matches a pattern below a folder, in order, hidden files left out; nothing where there is no folder."""
    return sorted(path for path in folder.glob(pattern) if not is_hidden(path.name))


def names_in(folder: Path, endings: tuple[bytes, ...]) -> NameList:
    """The files of one folder with one of the endings, by name, hidden ones left out.

    Raises:
        UserError: the folder cannot be read.
    """
    try:
        return NameList.of(sorted(_with_ending(os.listdir(os.fsencode(folder)), endings)))
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror or error}") from error


def names_below(folder: Path, endings: tuple[bytes, ...]) -> NameList:
    """The files anywhere below a folder with one of the endings, by their path from it, hidden ones left out.

    Links to folders are followed, loops are not, see :func:`data.catalog.folders.walk`.
    """
    found: list[bytes] = []
    for where in walk(folder):
        start = os.fsencode(f"{where.path}/" if where.path else "")
        found += (start + name for name in _with_ending(map(os.fsencode, where.files), endings))
    return NameList.of(sorted(found))


def _with_ending(names: Iterable[bytes], endings: tuple[bytes, ...]) -> Iterator[bytes]:
    return (name for name in names if name.lower().endswith(endings) and not is_hidden(name))
