"""Chest X-rays and their lists, of either data set."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from data.catalog.chest import index_chest, make_chest_lists
from data.catalog.chexpert import TRAIN, index_chexpert, make_chexpert_list, strip_root_folder
from data.catalog.file_index import FileIndex, ListedFiles
from data.catalog.joins import note_join
from data.catalog.list_folders import ListFolders, listed_side, open_list
from data.catalog.names import NameList


class Xrays(NamedTuple):
    """What differs between NIH's and CheXpert's images: values, not branches."""

    name: str
    files: FileIndex
    lists: ListFolders
    make: Callable[[Path], None]
    """Makes the lists in a folder."""
    clean: Callable[[NameList], NameList]
    """The names of a list to those of the index."""
    within: str
    """How the names begin of the images that should be in a list."""

    def open_list(self, split: str) -> ListedFiles:
        """A list, made where there is none."""
        return open_list(
            self.lists, self.name, self.files, make=self.make, split=split, within=self.within, clean=self.clean
        )

    def open_test_list(self) -> ListedFiles | None:
        """The test list; None where there is none."""
        listed = self.lists.read(self.name, "test", self.files, self.clean)
        if listed is not None:
            note_join(listed.source, listed_side(listed))
        return listed


def find_xrays(*, name: str, root: str | Path, lists: ListFolders, seed: int, max_bad: float) -> Xrays:
    """The images of a data set.

    Args:
        name: ``'chest'`` or ``'chexpert'``.
        root: the data set's folder.
        lists: where lists are.
        seed: of lists that are made.
        max_bad: share of the rows of CheXpert's table that may have no image.

    Raises:
        UserError: no images.
    """
    return {"chest": _find_chest, "chexpert": _find_chexpert}[name](root, lists, seed, max_bad)


def _find_chest(root: str | Path, lists: ListFolders, seed: int, max_bad: float) -> Xrays:
    index = index_chest(root)

    def make(folder: Path) -> None:
        # Looked for now: lists of other data have been passed over.
        make_chest_lists(root, folder, index, seed=seed, test_list=lists.find("chest", "test"))

    return Xrays("chest", index, lists, make, lambda names: names, "")


def _find_chexpert(root: str | Path, lists: ListFolders, seed: int, max_bad: float) -> Xrays:
    index = index_chexpert(root)
    make = partial(make_chexpert_list, root, index=index, seed=seed, max_bad=max_bad)
    return Xrays("chexpert", index, lists, make, strip_root_folder, TRAIN)
