"""CheXpert on disk: its nested folders, its ``train.csv``, and the list made from these."""

from pathlib import Path

from data.catalog.chest import ENDINGS
from data.catalog.file_index import FileIndex, names_below, require_folder
from data.catalog.joins import Side, note_join
from data.catalog.lists import list_path, seeded_order, write_list_once
from data.catalog.names import NameList
from data.readers.tables import read_table
from utils.errors import UserError
from utils.notes import note

# Of train/, valid/ and test/, the folder whose images are in the training list.
TRAIN = "train/"


def index_chexpert(root: str | Path) -> FileIndex:
    """Return CheXpert's images, named as in its train.csv from ``train/`` or ``valid/`` on.

    Raises:
        UserError: no such folder, or no ``train/`` in it.
    """
    root = chexpert_folder(root)
    # Each from its own folder, since links in one may point to another.
    tops = [root / name for name in ("test", "train", "valid") if (root / name).is_dir()]
    names = NameList.of(f"{top.name}/{name}" for top in tops for name in names_below(top, ENDINGS))
    if not len(names):
        raise UserError(f"--data: expected images below {root}/train, found none")
    return FileIndex([root], [names])


def chexpert_folder(root: str | Path) -> Path:
    """Return the folder that holds ``train/``: ``root`` itself, or the ``CheXpert-v1.0[-small]`` in it."""
    root = require_folder(root)
    for folder in (root, *sorted(root.glob("CheXpert-v1.0*"))):
        if (folder / "train").is_dir():
            return folder
    raise UserError(
        f"--data: expected CheXpert's train/ in {root}, or a folder CheXpert-v1.0 or CheXpert-v1.0-small with it"
    )


def strip_root_folder(names: NameList) -> NameList:
    """Remove the folder ``CheXpert-v1.0[-small]/``, with which names in train.csv begin."""
    return NameList.of(map(without_root_folder, names))


def without_root_folder(name: str) -> str:
    """Return ``train/...`` of ``CheXpert-v1.0-small/train/...``."""
    return name.partition("/")[2] if name.startswith("CheXpert") else name


def make_chexpert_list(root: str | Path, lists: str | Path, index: FileIndex, *, seed: int, max_bad: float) -> None:
    """Write ``chexpert_train.txt`` from ``train.csv``, frontal and lateral, or without it from the images found.

    Args:
        root: the data set's folder.
        lists: the folder to write to.
        index: the images.
        seed: of the order.
        max_bad: share of the table's rows that may have no image; they are in the list all the same.

    Raises:
        UserError: ``train.csv`` cannot be read, has no column Path, or is cut short; too many rows have no image.
    """
    folder = chexpert_folder(root)
    table = folder / "train.csv"
    images = [name for name in index.names if name.startswith(TRAIN)]
    if table.exists():
        names = [row["Path"] for row in read_table(table, ("Path",))]
        rows = index.join(strip_root_folder(NameList.of(dict.fromkeys(names))), source=table)
        without = [name for name in index.left_over(rows) if name.startswith(TRAIN)]
        note_join(
            table, Side(len(rows.names), "rows", "with an image", "without", rows.absent()),
            Side(len(images), f"images of {TRAIN}", "with a row", "without: in no list", without),
        )  # fmt: skip
        rows.found(max_bad=max_bad, advice="put the images there, or take the rows out of the table")
    else:
        names = images
        note(f"no train.csv in {folder}: the list is made from the images found")
    write_list_once(list_path(lists, "chexpert", "train"), seeded_order(names, seed), source=str(folder))
