"""Labels of chest X-rays, and which patient goes into which part."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.chest import FINDINGS, chexpert_folder
from utils.errors import UserError
from utils.seeding import seed_of

# CheXpert's 14 observations, in the order of its train.csv.
CHEXPERT_FINDINGS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
    "Support Devices",
)  # fmt: skip
CLASSES = {"chest": FINDINGS, "chexpert": CHEXPERT_FINDINGS}
UNCERTAIN = {"ones": 1.0, "zeros": 0.0, "ignore": float("nan")}
# Of the patients that fine-tune: those that choose the epoch, and those that test where no list says who does.
VALID_SHARE, TEST_SHARE = 0.1, 0.2

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


class Parts(NamedTuple):
    """Names of the images of each part; no patient is in two of them."""

    train: list[str]
    valid: list[str]
    test: list[str]


def held_out(patients: Sequence[str], share: float, *, seed: int, purpose: str) -> set[str]:
    """A share of the patients, one at least, in an order that depends on the seed and on their names alone."""
    order = sorted(set(patients), key=lambda patient: (seed_of(seed, purpose, patient), patient))
    return set(order[: max(1, round(share * len(order)))])


def split_by_patient(
    names: Sequence[str], patients: Sequence[str], *, test: Sequence[str], test_patients: Sequence[str], seed: int
) -> Parts:
    """Training, validation and test part.

    Args:
        names: what may fine-tune, the rest of the list after ``--ratio``.
        patients: whom each shows.
        test: the names of a test list; empty where there is none: a fifth of the patients are then held out.
        test_patients: whom each of these shows; they are taken out of the other parts.
        seed: of both splits.

    Raises:
        UserError: too few patients for every part to have one.
    """
    rest, testing = list(zip(names, patients, strict=True)), list(test)
    away = set(test_patients)
    if not testing and rest:
        away = held_out(patients, TEST_SHARE, seed=seed, purpose="test")
        testing = [name for name, patient in rest if patient in away]
    rest = [(name, patient) for name, patient in rest if patient not in away]
    choosing = held_out([p for _, p in rest], VALID_SHARE, seed=seed, purpose="validation") if rest else set()
    parts = Parts([n for n, p in rest if p not in choosing], [n for n, p in rest if p in choosing], testing)
    if not all(parts):
        raise UserError(
            f"--ratio: expected a patient at least to train on, one to choose the epoch and one to test, got "
            f"{len(names)} images of {len(set(patients))} patients after the share that pre-trains; give a "
            "smaller --ratio"
        )
    return parts


def as_array(labels: Labels, names: Sequence[str], *, source: str | Path) -> np.ndarray:
    """float32 N K, the labels of the names.

    Raises:
        UserError: names have none; says how many, and the first.
    """
    missing = [name for name in names if name not in labels]
    if missing:
        raise UserError(f"{source}: {len(missing)} of {len(names)} images have no labels ({missing[0]} ...)")
    return np.array([labels[name] for name in names], dtype=np.float32)
