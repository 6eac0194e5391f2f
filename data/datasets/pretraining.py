"""The data sets of pre-training: a folder and its list to raw samples by index."""

from pathlib import Path

from data.catalog.file_index import ListedFiles
from data.catalog.list_folders import ListFolders, open_list
from data.catalog.xray_dataset import Selection
from data.catalog.xrays import ALL, find_xrays
from data.datasets.images import AS_THEY_ARE, ImageFiles
from data.datasets.luna import (
    CropFiles,
    find_crop_files,
    index_crops,
    leave_out_failed,
    make_luna_lists,
    note_validation,
)
from data.readers.images import ImageSpec
from utils.errors import UserError


def open_dataset(
    *, name: str, root: str | Path, lists: ListFolders, ratio: float, seed: int, split: str = "train",
    spec: ImageSpec = AS_THEY_ARE, selection: Selection = ALL, max_bad: float = 0.01,
) -> ImageFiles | CropFiles:  # fmt: skip
    """Open the samples for pre-training: the first ``ratio`` of the list of ``split``.

    An existing list is used as it is; a missing one is made from the data and kept. How many names of the list are in
    the folder, and which files of the folder are in no list, is reported on stderr.

    Args:
        name: ``'luna'``, or a key of :data:`data.catalog.xrays.XRAYS`.
        root: the data set's folder.
        lists: the folders of lists.
        ratio: share of the list.
        seed: of the order of a list that is made.
        split: ``'train'`` or ``'valid'``.
        spec: 2D: how images are read.
        selection: 2D: which images are used.
        max_bad: share of the listed images or scans that may be missing; they are left out.

    Raises:
        UserError: there is no data, or it is not the data that the list names.
    """
    if name == "luna":
        return _open_crops(Path(root), lists, ratio, seed, split, max_bad)
    xrays = find_xrays(name=name, root=root, lists=lists, seed=seed, max_bad=max_bad, selection=selection)
    listed = xrays.used(_first(xrays.open_list(split), ratio)).found(max_bad=max_bad)
    return ImageFiles(xrays.files.folders, listed.names, listed.folder_of, spec=spec)


def _open_crops(root: Path, lists: ListFolders, ratio: float, seed: int, split: str, max_bad: float) -> CropFiles:
    crops = find_crop_files(root, split)
    if split == "train":
        note_validation(root)
    listed = open_list(
        lists, "luna", index_crops(root, crops), make=lambda folder: make_luna_lists(root, folder, seed=seed),
        split=split, what="scans",
    )  # fmt: skip
    listed = leave_out_failed(_first(listed, ratio), root).found(max_bad=max_bad)
    wanted = set(listed.names)
    return CropFiles([crop for crop in crops if crop.scan in wanted], listed.names)


def _first(listed: ListedFiles, ratio: float) -> ListedFiles:
    first, rest = listed.cut(ratio)
    if not len(first.names):
        raise UserError(
            f"--ratio: {ratio} of the names in {listed.source} is not one whole name, it has {len(rest.names)}; give a "
            "larger --ratio or more data"
        )
    return first
