"""Reads ``labels.csv`` and ``patients.csv``, a user's own tables of labels, patients and views of images."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from data.catalog.file_index import FileIndex
from data.catalog.joins import Side, first_names, note_join, unique
from data.catalog.name_matching import matcher_of
from data.readers.tables import read_columns, read_table
from utils.errors import UserError
from utils.notes import note

LABELS, PATIENTS = "labels.csv", "patients.csv"
FILE, PATIENT, VIEW = ("file", "name"), "patient", "view"
"""Columns of both tables, in upper or lower case; the first of FILE that is there has the names of images."""
KNOWN = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0}
VALUES = KNOWN | {"": math.nan}


class OwnTable(NamedTuple):
    """What a table says of the images, by their names in the index."""

    classes: tuple[str, ...]
    """The columns of 0, 1 and blank."""
    labels: dict[str, tuple[float, ...]]
    """0, 1 or NaN where blank; rows without any label are not in it."""
    patients: dict[str, str]
    views: dict[str, str]


def read_own_table(path: Path, images: FileIndex, *, labels: Sequence[str] | None) -> OwnTable:
    """Read a table of a user's own.

    Args:
        path: the table; what of it matches the images is reported on stderr.
        images: the images.
        labels: the columns of labels; None for every column of 0, 1 and blank.

    Raises:
        UserError: it cannot be read, has no column of names, two columns of one name, a column of labels with other
            values, or two different rows for an image; or none of its rows names an image.
    """
    columns = _find_columns(path)
    rows = read_table(path, (columns[FILE[0]],))
    listed = [row[columns[FILE[0]]] for row in rows]
    files = matcher_of(images).find_all(dict.fromkeys(listed), source=path)
    _note_join(path, list(images.names), listed, files)
    named = [(files[name], row) for name, row in zip(listed, rows, strict=True) if name in files]

    def values_of(kind: str) -> dict[str, str]:
        if kind not in columns:
            return {}
        pairs = ((file, value) for file, row in named if (value := row[columns[kind]].strip()))
        return unique(pairs, source=path, what=f"{kind}s", counted=False)

    others = {*columns.values()}
    classes = _find_labels(path, rows, others) if labels is None else _named_labels(path, rows, labels)
    values = unique(_labels(named, classes), source=path, what="labels", counted=bool(classes))
    known = {file: row for file, row in values.items() if not all(map(math.isnan, row))}
    if classes and len(known) < len(values):
        note_join(path, Side(len(values), "images", "with a label", "with blanks only", sorted(values.keys() - known)))
    return OwnTable(tuple(column.strip() for column in classes), known, values_of(PATIENT), values_of(VIEW))


def has_labels(path: Path) -> bool:
    """Whether there is a table with columns of labels.

    Raises:
        UserError: as :func:`read_own_table`.
    """
    if not path.exists():
        return False
    columns = _find_columns(path)
    return bool(_find_labels(path, read_table(path, ()), {*columns.values()}, verbose=False))


def _find_columns(path: Path) -> dict[str, str]:
    """Map ``file``, ``patient`` and ``view`` to the columns of these names in the table."""
    found: dict[str, str] = {}
    for column in read_columns(path):
        key = column.strip().casefold()
        if key and (other := found.setdefault(key, column)) is not column:
            raise UserError(f"{path}: expected each column once, got {other} and {column}; rename one of them")
    name = next((found[key] for key in FILE if key in found), None)
    if name is None:
        raise UserError(f"{path}: expected a column {' or '.join(FILE)}, got {','.join(found) or 'none'}")
    return {FILE[0]: name} | {key: found[key] for key in (PATIENT, VIEW) if key in found}


def _find_labels(
    path: Path, rows: Sequence[Mapping[str, str]], others: set[str], *, verbose: bool = True
) -> tuple[str, ...]:
    """Return the columns that hold 0, 1 and blanks alone; those that hold no 0 or 1 at all are no labels.

    Args:
        path: the table.
        rows: its rows.
        others: the columns of names, patients and views.
        verbose: whether to report both kinds on stderr.
    """
    labels, left_out = [], []
    for column in (column for column in (rows[0] if rows else ()) if column.strip() and column not in others):
        if all(row[column].strip() not in KNOWN for row in rows):
            left_out.append(column)
        else:
            _require_labels(path, rows, column, advice="give --labels COLUMN,... if it is no label")
            labels.append(column)
    if verbose:
        text = f"; not those without 0 and 1: {first_names(left_out)}" if left_out else ""
        note(f"{path}: {len(labels)} columns are labels ({first_names(labels)}){text}")
    return tuple(labels)


def _named_labels(path: Path, rows: Sequence[Mapping[str, str]], labels: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of the names given, in any case, which must hold 0, 1 and blanks alone."""
    columns = {column.strip().casefold(): column for column in (rows[0] if rows else ())}
    absent = [name for name in labels if name.strip().casefold() not in columns]
    if absent:
        raise UserError(
            f"{path}: expected the columns {','.join(labels)} of --labels, there is no {first_names(absent)}"
        )
    found = tuple(columns[name.strip().casefold()] for name in dict.fromkeys(labels))
    for column in found:
        _require_labels(path, rows, column, advice="write unknown labels as blanks")
    return found


def _require_labels(path: Path, rows: Sequence[Mapping[str, str]], column: str, *, advice: str) -> None:
    values = [row[column].strip() for row in rows]
    if wrong := [value for value in values if value not in VALUES]:
        raise UserError(
            f"{path}: expected 0, 1 or blank (unlabelled) in the column {column}, {len(wrong)} of {len(values)} "
            f"rows have other values ({first_names(list(dict.fromkeys(wrong)))}); {advice}"
        )


def _labels(
    named: Sequence[tuple[str, Mapping[str, str]]], classes: Sequence[str]
) -> Iterator[tuple[str, tuple[float, ...]]]:
    return ((file, tuple(VALUES[row[column].strip()] for column in classes)) for file, row in named)


def _note_join(path: Path, names: Sequence[str], listed: Sequence[str], files: Mapping[str, str]) -> None:
    absent = [name for name in dict.fromkeys(listed) if name not in files]
    if not files:
        raise UserError(
            f"{path}: expected names of images of --data, none of its {len(absent)} is one ({first_names(absent)}; "
            f"of --data: {first_names(sorted(names))})"
        )
    without = sorted({*names} - {*files.values()})
    note_join(
        path, Side(len(names), "images of --data", "with a row", "without", without),
        Side(len(files) + len(absent), "names of its rows", "with an image", "without", absent),
    )  # fmt: skip
