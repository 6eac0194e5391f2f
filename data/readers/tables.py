"""Tables in CSV files."""

import csv
from collections.abc import Sequence
from pathlib import Path

from utils.errors import UserError


def read_columns(table: Path, *columns: str) -> list[tuple[str, ...]]:
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


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file.

    Raises:
        UserError: it cannot be read, or lacks a column or a value.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, found = list(reader), list(reader.fieldnames or [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: expected a table in UTF-8 ({error})") from None
    missing = [column for column in columns if column not in found]
    if missing:
        raise UserError(f"{path}: expected the columns {','.join(columns)}, got {','.join(found) or 'none'}")
    for number, row in enumerate(rows, start=1):
        if any(not row[column] for column in columns):
            raise UserError(f"{path}: expected {','.join(columns)} in every row, row {number} lacks one")
    return rows
