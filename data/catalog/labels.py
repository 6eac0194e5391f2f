"""Labels of chest X-rays, and which patient goes into which part."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data.catalog.chest import FINDINGS
from data.catalog.chexpert import chexpert_folder
from utils.errors import UserError

# CheXpert's 14 observations, in the order of its train.csv.
CHEXPERT_FINDINGS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
    "Support Devices",
)  # fmt: skip
CLASSES = {"chest": FINDINGS, "chexpert": CHEXPERT_FINDINGS}
UNCERTAIN = {"ones": 1.0, "zeros": 0.0, "ignore": float("nan")}

Labels = Mapping[str, tuple[float, ...]]


def chest_patient(name: str) -> str:
    """``00000013_005.png`` shows 00000013."""
    return Path(name).name.partition("_")[0]


def chexpert_patient(name: str) -> str:
    """``train/patient00001/study1/view1_frontal.jpg`` shows train/patient00001."""
    return "/".join(name.split("/")[:2])


def read_listed_labels(path: Path) -> dict[str, tuple[float, ...]]:
    """Labels from a list whose lines are a name and 14 numbers, 0 or 1, in the order of FINDINGS.

    Raises:
        UserError: the file cannot be read, or a line has other than a name and 14 labels of 0 or 1.
    """
    labels = {}
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the list {path}: {error}") from None
    for number, line in enumerate(lines, start=1):
        name, *words = line.split() or [""]
        if not name:
            continue
        if len(words) != len(FINDINGS) or not set(words) <= {"0", "1"}:
            raise UserError(
                f"{path}: expected a name and {len(FINDINGS)} labels of 0 or 1 in line {number}, got {len(words)} "
                "words after the name; a list without labels can pre-train and no more"
            )
        labels[name] = tuple(map(float, words))
    return labels


def read_chexpert_labels(root: str | Path, *, uncertain: str) -> dict[str, tuple[float, ...]]:
    """Labels from CheXpert's ``train.csv`` and, where it is there, ``valid.csv``, by name from ``train/`` on.

    What a report does not mention counts as absent, as is usual.

    Args:
        root: the data set's folder.
        uncertain: what a label of −1 becomes: ``'ones'``, ``'zeros'`` or, with ``'ignore'``, NaN.

    Raises:
        UserError: a table cannot be read, lacks a column, or holds another value.
    """
    folder = chexpert_folder(root)
    if not (folder / "train.csv").exists():
        raise UserError(f"--data: expected CheXpert's labels in {folder / 'train.csv'}, there is no such file")
    values = {"": 0.0, "0": 0.0, "0.0": 0.0, "1": 1.0, "1.0": 1.0, "-1": UNCERTAIN[uncertain]}
    values["-1.0"] = values["-1"]
    labels = {}
    for table in (folder / "train.csv", folder / "valid.csv"):
        if not table.exists():
            continue
        try:
            with open(table, newline="", encoding="utf-8-sig") as file:
                rows = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{table}: expected a table in UTF-8 ({error})") from None
        for number, row in enumerate(rows, start=1):
            path = row.get("Path") or ""
            name = path.partition("/")[2] if path.startswith("CheXpert") else path
            try:
                labels[name] = tuple(values[row[finding]] for finding in CHEXPERT_FINDINGS)
            except KeyError as error:
                raise UserError(
                    f"{table}: expected the columns Path and the 14 observations of blank, 0, 1 or -1, row {number} "
                    f"has no such value ({error})"
                ) from None
    return labels


def as_array(labels: Labels, names: Sequence[str], *, source: str | Path) -> np.ndarray:
    """float32 N K, the labels of the names.

    Raises:
        UserError: names have none; says how many, and the first.
    """
    missing = [name for name in names if name not in labels]
    if missing:
        raise UserError(f"{source}: {len(missing)} of {len(names)} images have no labels ({missing[0]} ...)")
    return np.array([labels[name] for name in names], dtype=np.float32)
