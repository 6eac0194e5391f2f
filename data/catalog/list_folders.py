"""Where the lists of a run lie: those that people gave, those of the run itself and of the one that pre-trained."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from data.catalog.file_index import FileIndex, ListedFiles
from data.catalog.joins import Side, note_join
from data.catalog.lists import list_path, read_names
from data.catalog.names import NameList
from utils.errors import UserError
from utils.notes import note

# Lists put there by people; nothing is written there.
PUBLISHED = Path(__file__).parents[2] / "train_val_txt"
FOLDER = "lists"
SPLITS = ("train", "valid", "test")

Names = Callable[[NameList], NameList]


def keep_names(names: NameList) -> NameList:
    """Names of a list that are those of the index already."""
    return names


class ListFolders:
    """The folders that lists are looked for in, and the one in which missing ones are made.

    Args:
        search: the folders; the first that has a list is the one whose list is used.
        made: where lists are made that none of them has.
        other_run: of those searched, the one of another run. Its lists may be of other data.
        is_main: False for processes that make lists for themselves alone, in a temporary folder.
    """

    def __init__(
        self, search: list[Path], made: Path, *, other_run: Path | None = None, is_main: bool = True
    ) -> None:  # fmt: skip
        self.search, self.made, self.other_run, self.is_main = list(search), made, other_run, is_main
        self.temporary: tempfile.TemporaryDirectory | None = None

    @classmethod
    def at(cls, folder: str | Path) -> "ListFolders":
        """One folder for all, as ``--lists`` names it."""
        return cls([Path(folder)], Path(folder))

    @classmethod
    def of_run(
        cls, *, typed: str | None, output: str, weight: str | None, resume: str | None, is_main: bool
    ) -> "ListFolders":
        """The folders of a run.

        Without ``--lists`` these are ``OUTPUT/lists`` of a run that left a state, the folder ``lists`` beside
        ``--weight``, and ``train_val_txt``; what none of them has is made in ``OUTPUT/lists``. Processes other than the
        main one make the same lists for themselves, in a temporary folder.

        Args:
            typed: ``--lists``.
            output, weight, resume: the options of these names.
            is_main: whether this process writes.
        """
        if typed is not None:
            return cls([Path(typed)], Path(typed), is_main=is_main)
        run = Path(resume).parent.parent if resume not in (None, "auto") else Path(output)
        own = [run / FOLDER] if any((run / "state").glob("*.pt")) else []
        beside = [Path(weight).parent / FOLDER] if weight not in (None, "none") else []
        other_run = next((folder for folder in beside if folder not in own), None)
        return cls([*own, *beside, PUBLISHED], Path(output) / FOLDER, other_run=other_run, is_main=is_main)

    def find(self, name: str, split: str) -> Path | None:
        """The list that is used, e.g. ``chest_train.txt`` of the first folder that has it."""
        paths = (list_path(folder, name, split) for folder in self.search)
        return next((path for path in paths if path.exists()), None)

    def read(self, name: str, split: str, index: FileIndex, clean: Names = keep_names) -> ListedFiles | None:
        """A list and the files that it names; None where there is none, or an empty one of a split that may be empty.

        Args:
            name: the data set.
            split: ``'train'``, ``'valid'`` or ``'test'``.
            index: the files.
            clean: what makes the names of the list those of the index.
        """
        while (path := self.find(name, split)) is not None:
            if split != "train" and path.is_file() and not path.stat().st_size:
                return None
            listed = index.join(clean(read_names(path)), source=path)
            if path.parent != self.other_run or listed.there.any():
                return listed
            note(f"{path}: none of its {len(listed.names)} names is in {index.where}: of other data, it is not used")
            self.search.remove(path.parent)
        return None

    def folder_to_fill(self, name: str) -> Path:
        """Where the lists of a data set are made, searched from now on. Those of a run that left no state make way."""
        if not self.is_main and self.temporary is None:
            self.temporary = tempfile.TemporaryDirectory(prefix="lists-")
            self.made = Path(self.temporary.name)
        if self.made not in self.search:
            for path in sorted(self.made.glob(f"{name}_*.txt")):
                path.replace(path.with_suffix(".old"))
                note(f"{path}, of a run that left no state, is now {path.with_suffix('.old').name}")
            self.search.insert(0, self.made)
        return self.made


def open_list(
    lists: ListFolders, name: str, index: FileIndex, *, make: Callable[[Path], None], split: str = "train",
    what: str = "images", within: str = "", clean: Names = keep_names,
) -> ListedFiles:  # fmt: skip
    """A list, made where there is none, and the files that it names.

    Both are counted on stderr, and what is left over is named.

    Args:
        lists: where lists are.
        name: the data set.
        index: the files.
        make: makes what lists are missing, in a folder.
        split: ``'train'``, ``'valid'`` or ``'test'``.
        what: the files are.
        within: only files whose names begin so are expected to be listed.
        clean: what makes the names of the list those of the index.

    Raises:
        UserError: the list cannot be read, or is not made of this data.
    """
    listed = lists.read(name, split, index, clean)
    if listed is None:
        make(lists.folder_to_fill(name))
        listed = lists.read(name, split, index, clean)
    if listed is None:
        raise UserError(f"cannot read the list {list_path(lists.made, name, split)}: there is none")
    others = [lists.read(name, other, index, clean) for other in SPLITS if other != split]
    left = index.left_over(listed, *(other for other in others if other))
    total, left = (_within(names, within) for names in (index.names, left))
    note_join(
        listed.source, listed_side(listed),
        Side(len(total), f"{what} of --data", "in a list", f"{what} in no list", left),
    )  # fmt: skip
    return listed


def listed_side(listed: ListedFiles) -> Side:
    """What a line tells of a list's names."""
    return Side(len(listed.names), "names", "in --data", "not", listed.absent())


def _within(names: NameList, start: str) -> NameList:
    return NameList.of(name for name in names if name.startswith(start)) if start else names
