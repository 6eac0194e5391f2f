"""Reading of tables in CSV files."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from utils.errors import UserError


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read the rows of a CSV file in UTF-8, by the names in its first line; blank lines are ignored.

    Values are separated by commas, or by semicolons or tabs if the first line has some of these and no comma.

    Args:
        path: the file.
        columns: each must occur once and have a value in every row. Other columns are read too, and may be blank.

    Raises:
        UserError: it cannot be read, has no such column or value, or a row has more or fewer cells than the first line.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restkey="", restval=None, delimiter=_delimiter(file))
            rows, found = list(reader), list(reader.fieldnames or [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: expected a table in UTF-8 ({error})") from None
    if not set(columns) <= set(found):
        raise UserError(f"{path}: expected the columns {','.join(columns)}, got {','.join(found) or 'none'}")
    if twice := [column for column in columns if found.count(column) > 1]:
        raise UserError(f"{path}: expected one column named {twice[0]}, got {found.count(twice[0])}")
    for number, row in enumerate(rows, start=1):
        _check_cells(path, number, row, found)
        if any(not row[column] for column in columns):
            raise UserError(f"{path}: expected {','.join(columns)} in every row, row {number} lacks one")
    return rows


def read_columns(path: Path) -> list[str]:
    """Read the names in the first line of a CSV file; empty ones too.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            return next(csv.reader(file, delimiter=_delimiter(file)), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: expected a table in UTF-8 ({error})") from None


def _delimiter(file: TextIO) -> str:
    """Return what separates the values of a table, by its first line; spreadsheets of many countries write ``;``."""
    first = file.readline()
    file.seek(0)
    return next((mark for mark in ",;\t" if mark in first), ",")


def _check_cells(path: Path, number: int, row: dict[str, str], columns: Sequence[str]) -> None:
    """Refuse rows with missing or additional commas, which shift values into wrong columns."""
    # Some tables end their lines in a comma: cells without a name hold nothing.
    surplus = row.pop("", None)
    if any(row[column] is None for column in columns if column):
        raise UserError(f"{path}: its row {number} is cut short: expected {len(columns)} values")
    if surplus and any(surplus):
        raise UserError(f"{path}: expected {len(columns)} values a row, row {number} has more; is a comma unquoted?")
