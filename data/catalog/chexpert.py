"""CheXpert as people have it on disk: nested patients, ``train.csv``, and the list made from these."""

import sys
from collections.abc import Iterable
from pathlib import Path

from data.catalog.chest import ENDINGS
from data.catalog.file_index import FileIndex, names_below, require_folder
from data.catalog.lists import list_path, seeded_order, write_list_once
from data.catalog.names import NameList
from data.readers.tables import read_columns
from utils.errors import UserError


def index_chexpert(root: str | Path) -> FileIndex:
    """CheXpert's images, named as in its train.csv from ``train/`` or ``valid/`` on.

    Raises:
        UserError: no such folder, or no ``train/`` in it.
    """
    root = chexpert_folder(root)
    names = names_below(root, ENDINGS)
    if not len(names):
        raise UserError(f"--data: expected images below {root}/train, found none")
    return FileIndex([root], [names])


def chexpert_folder(root: str | Path) -> Path:
    """The folder that holds ``train/``: ``root`` itself, or the ``CheXpert-v1.0[-small]`` in it."""
    root = require_folder(root)
    for folder in (root, *sorted(root.glob("CheXpert-v1.0*"))):
        if (folder / "train").is_dir():
            return folder
    raise UserError(
        f"--data: expected CheXpert's train/ in {root}, or a folder CheXpert-v1.0 or CheXpert-v1.0-small with it"
    )


def strip_root_folder(names: NameList) -> NameList:
    """CheXpert's names without the folder ``CheXpert-v1.0[-small]/`` that its train.csv puts before them."""
    return NameList.of(name.partition("/")[2] if name.startswith("CheXpert") else name for name in names)


def make_chexpert_list(root: str | Path, lists: str | Path, index: FileIndex, *, seed: int) -> None:
    """Make ``chexpert_train.txt`` from ``train.csv``, frontal and lateral, else from the images found, and keep it.

    Raises:
        UserError: ``train.csv`` cannot be read, has no column Path, or was cut short.
    """
    folder = chexpert_folder(root)
    table = folder / "train.csv"
    names: Iterable[str] = (name for name in index.names if name.startswith("train/"))
    if table.exists():
        names = [path for (path,) in read_columns(table, "Path")]
    else:
        print(f"no train.csv in {folder}: the list is made from the images found", file=sys.stderr)
    write_list_once(list_path(lists, "chexpert", "train"), seeded_order(names, seed), source=str(folder))
