"""The data sets of pre-training: from a folder and its list to single raw samples."""

from collections.abc import Callable
from pathlib import Path

from data.catalog.chest import index_chest, make_chest_lists
from data.catalog.chexpert import index_chexpert, make_chexpert_list, strip_root_folder
from data.catalog.lists import cut_list, list_path, read_names
from data.catalog.names import NameList
from data.datasets.images import ImageFiles
from data.datasets.luna import CropFiles, find_crops, leave_out_failed, make_luna_lists
from utils.errors import UserError


def open_dataset(
    *, name: str, root: str | Path, lists: str | Path, ratio: float, seed: int, part: str = "train", longest: int = 0
) -> ImageFiles | CropFiles:
    """The samples that pre-train: the first ``ratio`` of the list of ``part``.

    A list that is there is used as it is; one that is not is made from the data, and kept.

    Args:
        name: ``'chest'``, ``'chexpert'`` or ``'luna'``.
        root: the data set's folder.
        lists: the folder of the lists.
        ratio: share of the list.
        seed: of the order of a list that is made.
        part: ``'train'`` or ``'valid'``.
        longest: 2D: longest side of an image in pixels, 0 for as it is.

    Raises:
        UserError: no data, or not the data that the list names.
    """
    openers: dict[str, Callable[..., ImageFiles | CropFiles]] = {
        "chest": _open_chest,
        "chexpert": _open_chexpert,
        "luna": _open_luna,
    }
    return openers[name](Path(root), Path(lists), ratio, seed, part, longest)


def _first(path: Path, ratio: float) -> NameList:
    names, rest = cut_list(read_names(path), ratio)
    if not len(names):
        raise UserError(
            f"--ratio: {ratio} of the names in {path} is not one whole name, it has {len(rest)}; give a larger --ratio "
            "or more data"
        )
    return names


def _open_chest(root: Path, lists: Path, ratio: float, seed: int, part: str, longest: int) -> ImageFiles:
    index, path = index_chest(root), list_path(lists, "chest", part)
    if not path.exists():
        make_chest_lists(root, lists, index, seed=seed)
    names = _first(path, ratio)
    return ImageFiles(index.folders, names, index.locate(names, source=path), longest=longest)


def _open_chexpert(root: Path, lists: Path, ratio: float, seed: int, part: str, longest: int) -> ImageFiles:
    index, path = index_chexpert(root), list_path(lists, "chexpert", part)
    if not path.exists():
        make_chexpert_list(root, lists, index, seed=seed)
    names = strip_root_folder(_first(path, ratio))
    return ImageFiles(index.folders, names, index.locate(names, source=path), longest=longest)


def _open_luna(root: Path, lists: Path, ratio: float, seed: int, part: str, longest: int) -> CropFiles:
    path = list_path(lists, "luna", part)
    if not path.exists():
        make_luna_lists(root, lists, seed=seed)
    names = leave_out_failed(root, _first(path, ratio), part=part, source=path)
    return CropFiles(find_crops(root, names, part=part, source=path), names)
