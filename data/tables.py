"""Tables in CSV files."""

import csv
from collections.abc import Sequence
from pathlib import Path

from utils.errors import UserError


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
