"""The 2D data sets, one record each, and the images, lists and labels of one of them."""

from collections import Counter
from collections.abc import Sequence, Set
from functools import partial
from pathlib import Path
from typing import NamedTuple

from data.catalog.chest import FINDINGS, find_chest_table, index_chest, make_chest_lists
from data.catalog.chexpert import TRAIN, index_chexpert, make_chexpert_list, strip_root_folder
from data.catalog.file_index import FileIndex, ListedFiles
from data.catalog.folder_xrays import (
    TEST,
    index_folder,
    make_folder_list,
    read_folder_labels,
    read_patients,
    read_views,
)
from data.catalog.joins import SHOWN, Side, note_join
from data.catalog.labels import CHEXPERT_FINDINGS, chest_labels, read_chexpert_labels
from data.catalog.list_folders import ListFolders, listed_side, open_list
from data.catalog.lists import read_names
from data.catalog.name_matching import match_list, read_skipped
from data.catalog.names import NameList
from data.catalog.patients import chest_patients, chexpert_patients
from data.catalog.xray_dataset import LabelRequest, LabelTable, ListRequest, Selection, XrayDataset
from utils.errors import UserError

ALL = Selection()


def _make_chest_lists(request: ListRequest) -> None:
    make_chest_lists(request.root, request.folder, request.files, seed=request.seed, test_list=request.test_list)


def _read_chest_labels(request: LabelRequest) -> LabelTable:
    table = find_chest_table(request.root)
    patients_of = partial(chest_patients, table=table.patients if table else {})
    return LabelTable(FINDINGS, chest_labels(request.lists, table), patients_of)


def _read_chest_patients(root: Path, files: FileIndex, names: Sequence[str]) -> list[str]:
    table = find_chest_table(root)
    return chest_patients(names, table.patients if table else {})


def _make_chexpert_list(request: ListRequest) -> None:
    make_chexpert_list(request.root, request.folder, request.files, seed=request.seed, max_bad=request.max_bad)


def _read_chexpert_labels(request: LabelRequest) -> LabelTable:
    labels = read_chexpert_labels(request.root, uncertain=request.uncertain)
    return LabelTable(CHEXPERT_FINDINGS, labels, chexpert_patients)


XRAYS = {
    "chest": XrayDataset(
        index_images=index_chest, make_lists=_make_chest_lists, read_labels=_read_chest_labels,
        read_patients=_read_chest_patients,
    ),
    "chexpert": XrayDataset(
        index_images=index_chexpert, make_lists=_make_chexpert_list, read_labels=_read_chexpert_labels,
        clean=lambda names, files, source: strip_root_folder(names), within=TRAIN,
        read_patients=lambda root, files, names: chexpert_patients(names),
    ),
    "folder": XrayDataset(
        index_images=index_folder, make_lists=make_folder_list, read_labels=read_folder_labels, clean=match_list,
        test_file=TEST, read_views=read_views, read_patients=read_patients,
    ),
}  # fmt: skip


class Xrays(NamedTuple):
    """A 2D data set in a folder."""

    name: str
    dataset: XrayDataset
    root: Path
    files: FileIndex
    lists: ListFolders
    seed: int
    max_bad: float
    left_out: Set[str]
    """Images that are not used, in whatever list."""

    def used(self, listed: ListedFiles) -> ListedFiles:
        """A list without the images that are not used.

        Lists are cut by ``--ratio`` before, so that the rest is the same whatever is left out of it.
        """
        return listed.without(self.left_out)

    def open_list(self, split: str) -> ListedFiles:
        """The list of a split, made where there is none."""
        return open_list(
            self.lists, self.name, self.files, make=self._make_lists, split=split, within=self.dataset.within,
            clean=self._clean,
        )  # fmt: skip

    def _clean(self, names: NameList, source: Path) -> NameList:
        return self.dataset.clean(names, self.files, source)

    def _make_lists(self, folder: Path) -> None:
        # The test list is looked up only now: reading the training list may have passed over lists of other data.
        test_list = self.lists.find(self.name, "test")
        self.dataset.make_lists(ListRequest(folder, self.root, self.files, self.seed, self.max_bad, test_list))

    def find_list(self, split: str) -> ListedFiles | None:
        """The list of a split; None where there is none."""
        listed = self.lists.read(self.name, split, self.files, self._clean)
        own = self.root / self.dataset.test_file
        if listed is None and split == "test" and own.is_file():
            listed = self.files.join(self._clean(read_names(own), own), source=own)
        if listed is not None:
            note_join(listed.source, listed_side(listed))
        return listed

    def read_labels(
        self, lists: Sequence[Path], *, uncertain: str, columns: Sequence[str] | None = None
    ) -> LabelTable:  # fmt: skip
        """Labels and patients, see :class:`LabelRequest`."""
        return self.dataset.read_labels(LabelRequest(self.root, lists, self.files, uncertain, columns))


def find_xrays(
    *, name: str, root: str | Path, lists: ListFolders, seed: int, max_bad: float, selection: Selection = ALL,
    dataset: XrayDataset | None = None,
) -> Xrays:  # fmt: skip
    """The images of a data set.

    Args:
        name: a key of XRAYS, with which the names of lists begin.
        root: the data set's folder.
        lists: where lists are.
        seed: of lists that are made.
        max_bad: share of the rows of a table that may have no image, where lists are made from one.
        selection: which of them are used.
        dataset: of volumes; None for that of XRAYS.

    Raises:
        UserError: no images, or none that is used.
    """
    dataset = dataset or XRAYS[name]
    files = dataset.index_images(Path(root))
    left_out = read_skipped(selection.skip, files) | _of_other_views(dataset, Path(root), files, selection.views)
    if len(left_out) == len(files):
        raise UserError(f"--data: all {len(files)} images are left out by --skip or --views")
    return Xrays(name, dataset, Path(root), files, lists, seed, max_bad, left_out)


def _of_other_views(
    dataset: XrayDataset, root: Path, files: FileIndex, views: Sequence[str] | None
) -> frozenset[str]:  # fmt: skip
    """The images of other views than those given, or of unknown view; they are counted on stderr by view."""
    read_views = dataset.read_views
    if not views or read_views is None:
        return frozenset()
    known, wanted = read_views(root, files), {view.casefold() for view in views}
    view_of = {image: known.get(image, "") for image in files.names}
    others = [image for image, view in view_of.items() if view.casefold() not in wanted]
    counts = Counter(view_of[image] or "of unknown view" for image in others)
    if len(others) == len(files):
        found = ", ".join(f"{count} {view}" for view, count in counts.most_common(SHOWN))
        raise UserError(f"--views: expected images of {','.join(views)} in {root}, its {len(files)} are {found}")
    note_join(
        f"--views {','.join(views)}", Side(len(files), "images", "of these views", "not: left out", others)
    )  # fmt: skip
    return frozenset(others)
