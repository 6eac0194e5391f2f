"""The data sets of pre-training: a folder and its list to raw samples by index."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

from data.catalog.crop_sets import CROP_SETS
from data.catalog.file_index import FileIndex, ListedFiles, require_folder
from data.catalog.list_folders import ListFolders, open_list
from data.catalog.name_matching import read_skipped
from data.catalog.names import NameList
from data.catalog.xray_dataset import Selection
from data.catalog.xrays import ALL, XRAYS, find_xrays
from data.datasets.crop_lists import OfCase, index_cases, leave_out_failed, make_crop_lists, note_held_out
from data.datasets.images import AS_THEY_ARE, ImageFiles
from data.datasets.luna import CropFiles, find_crop_files
from data.datasets.whole_volumes import WholeVolumes, find_volume_files, holds_volumes
from data.readers.images import ImageSpec
from utils.errors import UserError

Crops = TypeVar("Crops", bound=OfCase)


def open_dataset(
    *, name: str, root: str | Path, lists: ListFolders, ratio: float, seed: int, split: str = "train", dim: int = 2,
    spec: ImageSpec = AS_THEY_ARE, selection: Selection = ALL, max_bad: float = 0.01,
) -> ImageFiles | CropFiles | WholeVolumes:  # fmt: skip
    """Open the samples for pre-training: the first ``ratio`` of the list of ``split``.

    An existing list is used as it is; a missing one is made from the data and kept. How many names of the list are in
    the folder, and which files of the folder are in no list, is reported on stderr.

    Args:
        name: a key of :data:`data.catalog.xrays.XRAYS` or of :data:`data.catalog.crop_sets.CROP_SETS`.
        root: the data set's folder.
        lists: the folders of lists.
        ratio: share of the list.
        seed: of the order of a list that is made.
        split: ``'train'`` or ``'valid'``.
        dim: dimensions of a data set that has images and volumes; others need not say.
        spec: 2D: how images are read.
        selection: which images are used; in 3D all but those to skip.
        max_bad: share of the listed images or scans that may be missing; they are left out.

    Raises:
        UserError: there is no data, or it is not the data that the list names.
    """
    if dim == 3 or name not in XRAYS:
        crop_set, root = CROP_SETS[name], require_folder(root)
        choose = partial(
            _choose_crops, name=name, root=root, lists=lists, ratio=ratio, seed=seed, split=split, skip=selection.skip,
            max_bad=max_bad,
        )  # fmt: skip
        if holds_volumes(root):
            return WholeVolumes(*choose(partial(find_volume_files, root, crop_set=crop_set)))
        return CropFiles(*choose(partial(find_crop_files, root, crop_set=crop_set)))
    xrays = find_xrays(name=name, root=root, lists=lists, seed=seed, max_bad=max_bad, selection=selection)
    listed = xrays.used(_first(xrays.open_list(split), ratio)).found(max_bad=max_bad)
    return ImageFiles(xrays.files.folders, listed.names, listed.folder_of, spec=spec)


def _choose_crops(
    find: Callable[[str], Sequence[Crops]], *, name: str, root: Path, lists: ListFolders, ratio: float, seed: int,
    split: str, skip: str | Path | None, max_bad: float,
) -> tuple[list[Crops], NameList]:  # fmt: skip
    """Return the files of the first ``ratio`` of the list, and the names of their cases."""
    crop_set = CROP_SETS[name]
    files = find(split)
    if split == "train":
        note_held_out(root, find, crop_set.held_out)
    index = index_cases(root, files)
    listed = open_list(
        lists, name, index, make=lambda folder: make_crop_lists(folder, name=name, root=root, find=find, seed=seed),
        split=split, what="scans",
    )  # fmt: skip
    first = leave_out_failed(_first(listed, ratio), root, crop_set.case_of)
    listed = first.without(_skipped(skip, index)).found(max_bad=max_bad)
    wanted = set(listed.names)
    return [file for file in files if file.scan in wanted], listed.names


def _skipped(skip: str | Path | None, index: FileIndex) -> set[str]:
    """Return the cases to skip; their names may have blanks, which lists have as %20."""
    if skip is None:
        return set()
    listed = {unquote(name, errors="surrogateescape"): name for name in index.names}
    return {listed[name] for name in read_skipped(skip, FileIndex(index.folders, [NameList.of(listed)]))}


def _first(listed: ListedFiles, ratio: float) -> ListedFiles:
    first, rest = listed.cut(ratio)
    if not len(first.names):
        raise UserError(
            f"--ratio: {ratio} of the names in {listed.source} is not one whole name, it has {len(rest.names)}; give a "
            "larger --ratio or more data"
        )
    return first
