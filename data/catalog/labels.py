"""Labels of chest X-rays."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from data.catalog.chest import FINDINGS, ChestTable
from data.catalog.chexpert import chexpert_folder, without_root_folder
from data.catalog.joins import unique
from data.readers.tables import read_table
from utils.errors import UserError

# CheXpert's 14 observations, in the order of its train.csv.
CHEXPERT_FINDINGS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
    "Support Devices",
)  # fmt: skip
UNCERTAIN = {"ones": 1.0, "zeros": 0.0, "ignore": float("nan")}

Labels = Mapping[str, tuple[float, ...]]


def read_listed_labels(path: Path) -> dict[str, tuple[float, ...]]:
    """Read labels from a list whose lines are a name and 14 numbers, 0 or 1, in the order of FINDINGS.

    Returns:
        An empty mapping for a list of names without labels.

    Raises:
        UserError: the file cannot be read, a line is not a name and 14 labels of 0 or 1, or a name has two lines with
            different labels.
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the list {path}: {error}") from None
    rows = [(number, words[0], words[1:]) for number, line in enumerate(lines, start=1) if (words := line.split())]
    if not any(words for _, _, words in rows):
        return {}
    for number, _, words in rows:
        if len(words) != len(FINDINGS) or not set(words) <= {"0", "1"}:
            raise UserError(
                f"{path}: expected a name and {len(FINDINGS)} labels of 0 or 1 in line {number}, got {len(words)} "
                "words after the name; a list without labels is for pre-training only"
            )
    labels = ((name, tuple(map(float, words))) for _, name, words in rows)
    return unique(labels, source=path, what="labels", counted=False)


def chest_labels(lists: Sequence[Path], table: ChestTable | None) -> dict[str, tuple[float, ...]]:
    """Return the labels of NIH's images, from the lists or, for lists without labels, from NIH's table.

    Raises:
        UserError: there are none, or as :func:`read_listed_labels`; an image has different labels in two lists.
    """
    read = {path: read_listed_labels(path) for path in lists}
    if table is None and (no_labels := [path for path, labels in read.items() if not labels]):
        raise UserError(
            f"{no_labels[0]}: expected a name and {len(FINDINGS)} labels of 0 or 1 in every line, got names alone, and "
            "--data has no Data_Entry_2017*.csv; a list without labels is for pre-training only"
        )
    labels_of_lists = ((labels or (table.labels if table else {})) for labels in read.values())
    return unique(
        ((name, tuple(map(float, values))) for labels in labels_of_lists for name, values in labels.items()),
        source=" and ".join(map(str, read)), what="labels", counted=False,
    )  # fmt: skip


def read_chexpert_labels(root: str | Path, *, uncertain: str) -> dict[str, tuple[float, ...]]:
    """Read labels from CheXpert's ``train.csv`` and, if it exists, ``valid.csv``, by name from ``train/`` on.

    An observation that the report does not mention (blank) counts as absent, as is usual.

    Args:
        root: the data set's folder.
        uncertain: what a label of −1 becomes: ``'ones'``, ``'zeros'`` or, with ``'ignore'``, NaN.

    Raises:
        UserError: a table cannot be read, lacks a column, or holds another value; an image has two different rows.
    """
    folder = chexpert_folder(root)
    if not (folder / "train.csv").exists():
        raise UserError(f"--data: expected CheXpert's labels in {folder / 'train.csv'}, there is no such file")
    tables = [table for table in (folder / "train.csv", folder / "valid.csv") if table.exists()]
    rows = (row for table in tables for row in _chexpert_rows(table, uncertain))
    return unique(rows, source=" and ".join(map(str, tables)), what="labels")


def _chexpert_rows(table: Path, uncertain: str) -> Iterator[tuple[str, tuple[float, ...]]]:
    values = {"": 0.0, "0": 0.0, "0.0": 0.0, "1": 1.0, "1.0": 1.0, "-1": UNCERTAIN[uncertain]}
    values["-1.0"] = values["-1"]
    for number, row in enumerate(read_table(table, ("Path",)), start=1):
        try:
            yield without_root_folder(row["Path"]), tuple(values[row[finding]] for finding in CHEXPERT_FINDINGS)
        except KeyError as error:
            raise UserError(
                f"{table}: expected the columns Path and the 14 observations of blank, 0, 1 or -1, row {number} "
                f"has no such value ({error})"
            ) from None


def as_array(labels: Labels, names: Sequence[str]) -> np.ndarray:
    """Return the labels of names, float32 N K; every name must have labels."""
    return np.array([labels[name] for name in names], dtype=np.float32)
