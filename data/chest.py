"""NIH ChestX-ray14 and CheXpert as people have them on disk: folders, metadata, and the lists made from these."""

import csv
import sys
from collections.abc import Iterable
from pathlib import Path

from data.file_index import FileIndex, names_below, names_in, require_folder
from data.lists import keep_list, list_path, read_names, seeded_order
from data.names import NameList
from utils.errors import UserError
from utils.seeding import seed_of

ENDINGS = (b".png", b".jpg", b".jpeg")
# The 14 findings in the order of the published lists' columns.
FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
)  # fmt: skip
# Shares of patients that the published lists have: 78,468, 11,218 and 22,433 of 112,119 images.
VALID_SHARE, TEST_SHARE = 0.1, 0.2


def index_chest(root: str | Path) -> FileIndex:
    """NIH's images: ``root`` itself, its ``images/``, or ``images_001/images/`` ... as the archives unpack.

    Raises:
        UserError: no such folder, or no images in it.
    """
    root = require_folder(root)
    candidates = (root / "images", *sorted(root.glob("images_*/images")))
    folders = [folder for folder in candidates if folder.is_dir()] or [root]
    names = [names_in(folder, ENDINGS) for folder in folders]
    if not any(len(part) for part in names):
        raise UserError(f"--data: expected PNG or JPEG images in {root} or its images/, found none")
    filled = [(folder, part) for folder, part in zip(folders, names, strict=True) if len(part)]
    return FileIndex(*zip(*filled, strict=True))


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


def below_top(names: NameList) -> NameList:
    """CheXpert's names without the folder ``CheXpert-v1.0[-small]/`` that its train.csv puts before them."""
    return NameList.of(name.partition("/")[2] if name.startswith("CheXpert") else name for name in names)


def make_chest_lists(root: str | Path, lists: str | Path, index: FileIndex, *, seed: int) -> None:
    """Make ``chest_train.txt``, and ``chest_valid.txt`` and ``chest_test.txt`` where there are labels, and keep them.

    NIH's ``test_list.txt`` is held out where it is there; else a fifth of the patients. A tenth validates. Without
    ``Data_Entry_2017*.csv`` there are no labels, nothing to test, and all images pre-train.
    """
    top = Path(root) if not Path(root).name.startswith("images") else Path(root).parent
    names = list(index.names)
    table = next(iter(sorted(top.glob("Data_Entry_2017*.csv"))), None)
    official = top / "test_list.txt"
    test = set(read_names(official)) if official.exists() else set()
    if table is None:
        kept = seeded_order((name for name in names if name not in test), seed)
        keep_list(list_path(lists, "chest", "train"), kept, source=f"the images of {root}")
        return
    labels = read_findings(table)
    # The training list is written last: where it is, all are, whoever else makes them or was killed while doing so.
    parts: dict[str, list[str]] = {"valid": [], "test": [], "train": []}
    for name in seeded_order(names, seed):
        place = seed_of(seed, "patient", name.partition("_")[0]) / 2**63
        held_out = name in test if test else place >= 1 - TEST_SHARE
        part = "test" if held_out else "valid" if place < VALID_SHARE else "train"
        parts[part].append(" ".join([name, *map(str, labels.get(name, (0,) * len(FINDINGS)))]))
    for part, lines in parts.items():
        keep_list(list_path(lists, "chest", part), lines, source=table.name)


def read_findings(table: Path) -> dict[str, tuple[int, ...]]:
    """Image name to its 14 labels, from NIH's ``Data_Entry_2017*.csv``.

    Raises:
        UserError: the table cannot be read, lacks its columns, or was cut short.
    """
    rows = [(name, found.split("|")) for name, found in _read_columns(table, "Image Index", "Finding Labels")]
    return {name: tuple(int(finding in found) for finding in FINDINGS) for name, found in rows}


def _read_columns(table: Path, *columns: str) -> list[tuple[str, ...]]:
    """Some columns of a CSV table.

    Raises:
        UserError: the table cannot be read, lacks a column, or has a row without it.
    """
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not set(columns) <= set(reader.fieldnames or ()):
                expected = " and ".join(map(repr, columns))
                raise UserError(f"{table}: expected the column{'s' * (len(columns) > 1)} {expected}")
            rows = [tuple(row[column] for column in columns) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table}: expected a table in UTF-8 ({error})") from None
    short = next((i for i, row in enumerate(rows) if None in row), None)
    if short is not None:
        raise UserError(f"{table}: its row {short + 1} is cut short")
    return rows


def make_chexpert_list(root: str | Path, lists: str | Path, index: FileIndex, *, seed: int) -> None:
    """Make ``chexpert_train.txt`` from ``train.csv``, frontal and lateral, else from the images found, and keep it.

    Raises:
        UserError: ``train.csv`` cannot be read, has no column Path, or was cut short.
    """
    folder = chexpert_folder(root)
    table = folder / "train.csv"
    names: Iterable[str] = (name for name in index.names if name.startswith("train/"))
    if table.exists():
        names = [path for (path,) in _read_columns(table, "Path")]
    else:
        print(f"no train.csv in {folder}: the list is made from the images found", file=sys.stderr)
    keep_list(list_path(lists, "chexpert", "train"), seeded_order(names, seed), source=str(folder))
