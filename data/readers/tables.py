"""Reading of tables in CSV files."""

import csv
from collections.abc import Sequence
from pathlib import Path

from utils.errors import UserError


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read the rows of a CSV file in UTF-8, by the names in its first line; blank lines are ignored.

    Args:
        path: the file.
        columns: each must occur once and have a value in every row. Other columns are read too, and may be blank.

    Raises:
        UserError: it cannot be read, has no such column or value, or a row has more or fewer cells than the first line.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restkey="", restval=None)
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


def _check_cells(path: Path, number: int, row: dict[str, str], columns: Sequence[str]) -> None:
    """Refuse rows with missing or additional commas, which shift values into wrong columns."""
    # Some tables end their lines in a comma: cells without a name hold nothing.
    surplus = row.pop("", None)
    if any(row[column] is None for column in columns if column):
        raise UserError(f"{path}: its row {number} is cut short: expected {len(columns)} values")
    if surplus and any(surplus):
        raise UserError(f"{path}: expected {len(columns)} values a row, row {number} has more; is a comma unquoted?")
