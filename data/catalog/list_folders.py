"""The folders of a run's lists: those that users gave, the run's own, and those of the run that pre-trained."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from data.catalog.file_index import FileIndex, ListedFiles
from data.catalog.joins import Side, note_join
from data.catalog.lists import list_path, read_names
from data.catalog.names import NameList
from utils.errors import UserError
from utils.notes import note

# Users put lists here; the program writes nothing here.
PUBLISHED = Path(__file__).parents[2] / "train_val_txt"
FOLDER = "lists"
SPLITS = ("train", "valid", "test")

Names = Callable[[NameList, Path], NameList]


def keep_names(names: NameList, source: Path) -> NameList:
    """Return names unchanged: they are those of the index."""
    return names


class ListFolders:
    """The folders in which lists are searched for, and the folder in which missing lists are made.

    Args:
        search: the folders to search; the first folder that has a list provides it.
        made: where missing lists are made.
        other_run: the folder of another run among them, if any. Its lists may name other data.
        is_main: False for processes that make their lists in a temporary folder.
    """

    def __init__(
        self, search: list[Path], made: Path, *, other_run: Path | None = None, is_main: bool = True
    ) -> None:  # fmt: skip
        self.search, self.made, self.other_run, self.is_main = list(search), made, other_run, is_main
        self.temporary: tempfile.TemporaryDirectory | None = None

    @classmethod
    def at(cls, folder: str | Path) -> "ListFolders":
        """Search and make lists in one folder, as with ``--lists``."""
        return cls([Path(folder)], Path(folder))

    @classmethod
    def of_run(
        cls, *, typed: str | None, output: str, weight: str | None, resume: str | None, is_main: bool
    ) -> "ListFolders":
        """Return the folders of a run.

        Without ``--lists`` these are ``OUTPUT/lists`` if the run has a state, the folder ``lists`` beside ``--weight``,
        and ``train_val_txt``; missing lists are made in ``OUTPUT/lists``. Processes other than the main one make the
        same lists in a temporary folder.

        Args:
            typed: ``--lists``.
            output, weight, resume: the options of these names.
            is_main: whether this process may write to ``output``.
        """
        if typed is not None:
            return cls([Path(typed)], Path(typed), is_main=is_main)
        run = Path(resume).parent.parent if resume not in (None, "auto") else Path(output)
        own = [run / FOLDER] if any((run / "state").glob("*.pt")) else []
        beside = [Path(weight).parent / FOLDER] if weight not in (None, "none") else []
        other_run = next((folder for folder in beside if folder not in own), None)
        return cls([*own, *beside, PUBLISHED], Path(output) / FOLDER, other_run=other_run, is_main=is_main)

    def find(self, name: str, split: str) -> Path | None:
        """Return the path of a list, e.g. ``chest_train.txt``, in the first folder that has it."""
        paths = (list_path(folder, name, split) for folder in self.search)
        return next((path for path in paths if path.exists()), None)

    def read(self, name: str, split: str, index: FileIndex, clean: Names = keep_names) -> ListedFiles | None:
        """Read a list and look up its files; None if there is none, or an empty list other than the training list.

        Args:
            name: the data set.
            split: ``'train'``, ``'valid'`` or ``'test'``.
            index: the files.
            clean: converts names of the list, whose path it is given too, to names of the index.
        """
        while (path := self.find(name, split)) is not None:
            if split != "train" and path.is_file() and not path.stat().st_size:
                return None
            listed = index.join(clean(read_names(path), path), source=path)
            if path.parent != self.other_run or listed.there.any():
                return listed
            note(f"{path}: none of its {len(listed.names)} names is in {index.where}: of other data, it is not used")
            self.search.remove(path.parent)
        return None

    def folder_to_fill(self, name: str) -> Path:
        """Return the folder to make lists in, and search it too; lists there of a run without a state are renamed."""
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
    """Read a list, or make it if there is none, and look up its files.

    Names and files are counted on stderr, and those without a match are named.

    Args:
        lists: where lists are.
        name: the data set.
        index: the files.
        make: writes the missing lists of the data set into a folder.
        split: ``'train'``, ``'valid'`` or ``'test'``.
        what: what the files are, for messages.
        within: only files whose names begin with this are expected in a list.
        clean: converts names of the list to names of the index.

    Raises:
        UserError: the list cannot be read or made.
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
    """Return how many names of a list have a file, for a message."""
    return Side(len(listed.names), "names", "in --data", "not", listed.absent())


def _within(names: NameList, start: str) -> NameList:
    return NameList.of(name for name in names if name.startswith(start)) if start else names
