"""A user's tables beside images and masks: ``patients.csv`` and ``test.txt``."""

from collections.abc import Collection
from pathlib import Path

from data.catalog.joins import Side, first_names, note_join, unique
from data.catalog.lists import read_names
from data.readers.file_names import stem_of
from data.readers.tables import read_columns, read_table
from utils.errors import UserError

PATIENTS, TEST = "patients.csv", "test.txt"


def read_test_names(root: Path, cases: Collection[str]) -> list[str]:
    """Return the cases that the folder's ``test.txt`` names; none where there is no such file.

    Raises:
        UserError: none of its names is a case.
    """
    path = root / TEST
    if not path.exists():
        return []
    names = list(dict.fromkeys(_case(name, cases) for name in read_names(path)))
    absent = [name for name in names if name not in cases]
    if len(absent) == len(names):
        raise UserError(f"{path}: expected names of images, none of its {len(names)} is one ({first_names(absent)})")
    note_join(path, Side(len(names), "names", "in --data", "not", absent))
    return [name for name in names if name in cases]


def read_patients(root: Path, cases: Collection[str]) -> dict[str, str]:
    """Map cases to the patient IDs of the folder's ``patients.csv``.

    Cases without a row are patients of their own, which is reported on stderr.

    Raises:
        UserError: the table cannot be read, names two patients of a case, or no case at all.
    """
    path = root / PATIENTS
    if not path.exists():
        return {case: case for case in cases}
    column = "file" if "file" in read_columns(path) else "name"
    rows = ((_case(row[column], cases), row["patient"]) for row in read_table(path, (column, "patient")))
    patients = unique(rows, source=path, what="patients")
    absent = [name for name in patients if name not in cases]
    if len(absent) == len(patients):
        raise UserError(f"{path}: expected names of images, none of its {len(absent)} is one ({first_names(absent)})")
    without = [case for case in cases if case not in patients]
    note_join(
        path, Side(len(cases), "images", "with a row", "without: each a patient of its own", without),
        Side(len(patients), "rows", "with an image", "without", absent),
    )  # fmt: skip
    return {case: patients.get(case, case) for case in cases}


def _case(name: str, cases: Collection[str]) -> str:
    """Return the case of a name with or without its ending; the name itself if there is no such case."""
    return next((case for case in (name, stem_of(Path(name))) if case in cases), name)
