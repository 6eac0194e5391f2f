"""NIH ChestX-ray14 on disk: its folders, its table of labels, and the lists made from these."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data.catalog.file_index import FileIndex, names_in, require_folder
from data.catalog.folders import folders_in, is_hidden
from data.catalog.joins import Side, first_names, note_join, unique
from data.catalog.lists import list_path, read_names, seeded_order, write_list_once
from data.catalog.names import NameList
from data.catalog.patients import chest_patients
from data.readers.tables import read_table
from utils.errors import UserError
from utils.notes import note
from utils.seeding import seed_of

ENDINGS = (b".png", b".jpg", b".jpeg")
# The 14 findings in the order of the published lists' columns.
FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
)  # fmt: skip
NO_FINDING = "No Finding"
IMAGE, FINDING, PATIENT = "Image Index", "Finding Labels", "Patient ID"
# Shares of patients, near those of the published lists: 78,468, 11,218 and 22,433 of 112,119 images.
VALID_SHARE, TEST_SHARE = 0.1, 0.2


def index_chest(root: str | Path) -> FileIndex:
    """Return NIH's images: those in ``images/`` and ``images_001/images/`` ... as unpacked, else those in ``root``.

    Images in other folders of ``root`` are not used, which is reported on stderr.

    Raises:
        UserError: no such folder, no images in it, or two of one name.
    """
    root = require_folder(root)
    tops = [root / name for name in folders_in(root) if name.startswith("images_")]
    candidates = [root / "images", *(folder for top in tops for folder in (top, top / "images"))]
    folders: dict[Path, Path] = {}  # one of them may be a link to another
    for folder in filter(Path.is_dir, candidates):
        folders.setdefault(folder.resolve(), folder)
    names = {folder: names_in(folder, ENDINGS) for folder in folders.values()}
    names = {folder: found for folder, found in names.items() if len(found)}
    direct = names_in(root, ENDINGS)
    # masks/ holds masks of these images, not images: phantoms have such a folder.
    known = {*candidates, root / "masks"}
    others = {folder / name for folder in (root, *folders.values()) for name in folders_in(folder)} - known
    elsewhere = [str(folder) for folder in sorted(others) if _holds_images(folder)]
    if not names and len(direct):
        names, direct = {root: direct}, NameList.of([])
    if not names:
        hint = f"; there are some in {first_names(elsewhere)}" if elsewhere else ""
        raise UserError(f"--data: expected PNG or JPEG images in {root} or its images/, found none{hint}")
    if len(direct):
        elsewhere.insert(0, f"{root} itself with {len(direct)} images")
    if elsewhere:
        read = first_names([str(folder) for folder in names])
        note(f"--data: images are read in {read}, not in {first_names(elsewhere)}")
    return FileIndex(list(names), list(names.values()))


def _holds_images(folder: Path) -> bool:
    try:
        with os.scandir(os.fsencode(folder)) as entries:
            return any(e.name.lower().endswith(ENDINGS) and not is_hidden(e.name) for e in entries)
    except OSError:  # a folder that this user may not read
        return False


class ChestTable(NamedTuple):
    """NIH's ``Data_Entry_2017*.csv``."""

    path: Path
    labels: dict[str, tuple[int, ...]]
    """Image name to its 14 labels."""
    patients: dict[str, str]
    """Image name to patient ID; empty where the table has no such column."""


def find_chest_table(root: str | Path) -> ChestTable | None:
    """Read NIH's table in the data set's folder or, if that is ``images/``, in its parent; None if there is none.

    Raises:
        UserError: as :func:`read_chest_table`.
    """
    tables = sorted(_top(root).glob("Data_Entry_2017*.csv"))
    if len(tables) > 1:
        note(f"{tables[0]} is used, and no other table: {', '.join(table.name for table in tables[1:])}")
    return read_chest_table(tables[0]) if tables else None


def _top(root: str | Path) -> Path:
    root = Path(root).absolute()
    return root.parent if root.name.startswith("images") else root


def read_chest_table(path: Path) -> ChestTable:
    """Read labels and patients from NIH's table.

    Raises:
        UserError: the table cannot be read, lacks a column, is cut short, has a finding other than the 14, or has two
            different rows for an image.
    """
    rows = read_table(path, (IMAGE, FINDING))
    unknown = {found for row in rows for found in row[FINDING].split("|")} - {*FINDINGS, NO_FINDING}
    if unknown:
        count = sum(not unknown.isdisjoint(row[FINDING].split("|")) for row in rows)
        raise UserError(
            f"{path}: {count} of {len(rows)} rows have findings that are not known "
            f"({first_names(sorted(map(repr, unknown)))}); expected {NO_FINDING} or some of {'|'.join(FINDINGS)}"
        )
    labels = unique(((row[IMAGE], _labels_of(row[FINDING])) for row in rows), source=path, what="findings")
    patients = ((row[IMAGE], row[PATIENT]) for row in rows if row.get(PATIENT))
    return ChestTable(path, labels, unique(patients, source=path, what="patients", counted=False))


def _labels_of(found: str) -> tuple[int, ...]:
    findings = found.split("|")
    return tuple(int(finding in findings) for finding in FINDINGS)


def make_chest_lists(
    root: str | Path, lists: str | Path, index: FileIndex, *, seed: int, test_list: Path | None = None
) -> None:
    """Write ``chest_train.txt`` and, where there are labels, ``chest_valid.txt`` and ``chest_test.txt``.

    The test split is NIH's ``test_list.txt`` or, without that, a fifth of the patients; a tenth of the patients are the
    validation split. Without ``Data_Entry_2017*.csv`` there are no labels and no test split: all images are in the
    training list. With it, images without a row in it are in no list.

    Args:
        root: the data set's folder.
        lists: the folder to write to.
        index: the images.
        seed: of the splits and of the order.
        test_list: a test list that exists already: it is held out, and none is written.

    Raises:
        UserError: the table or a list cannot be read, or names other images.
    """
    official = _top(root) / "test_list.txt"
    held_out = test_list or (official if official.exists() else None)
    test = _listed_images(held_out, index) if held_out else set()
    table = find_chest_table(root)
    if table is None:
        kept = seeded_order((name for name in index.names if name not in test), seed)
        write_list_once(list_path(lists, "chest", "train"), kept, source=f"the images of {root}")
        return
    names = seeded_order(_images_with_row(table, index), seed)
    # The training list is written last: if it exists, all do, even if a process that wrote lists was killed.
    splits: dict[str, list[str]] = {"valid": [], "test": [], "train": []}
    for name, patient in zip(names, chest_patients(names, table.patients), strict=True):
        position = seed_of(seed, "patient", patient) / 2**63  # uniform in 0..1
        is_test = name in test if test else position >= 1 - TEST_SHARE
        split = "test" if is_test else "valid" if position < VALID_SHARE else "train"
        splits[split].append(" ".join([name, *map(str, table.labels[name])]))
    if test_list:
        del splits["test"]
    for split, lines in splits.items():
        write_list_once(list_path(lists, "chest", split), lines, source=table.path.name)


def _listed_images(test_list: Path, index: FileIndex) -> set[str]:
    if not test_list.stat().st_size:
        return set()
    listed = index.join(read_names(test_list), source=test_list)
    if not listed.there.any():
        raise UserError(
            f"{test_list}: none of its {len(listed.names)} names is in {index.where} ({first_names(listed.names)}); "
            "give the test list of this data, or remove it, and a fifth of the patients is held out"
        )
    note_join(test_list, Side(len(listed.names), "names", "in --data", "not", listed.absent()))
    return set(listed.names)


def _images_with_row(table: ChestTable, index: FileIndex) -> Sequence[str]:
    rows = index.join(NameList.of(table.labels), source=table.path)
    without = index.left_over(rows)
    if len(without) == len(index):
        raise UserError(
            f"{table.path}: {len(without)} of {len(index)} images of --data have no row in it ({first_names(without)}; "
            f"its rows: {first_names(rows.names)}); name images as the table does, or take it out of the folder: "
            "without it they pre-train, with no labels"
        )
    images = Side(len(index), "images of --data", "with a row", "without: in no list", without)
    note_join(table.path, images, Side(len(rows.names), "rows", "with an image", "without", rows.absent()))
    return [name for name in index.names if name in table.labels]
