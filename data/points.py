"""Points in volumes by a table of a user's own, each as the inputs of a network that sees cubes."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.catalog.any_files import FoundFiles, find_files
from data.catalog.folder_volumes import VolumeIndex
from data.catalog.joins import Side, first_names, note_join
from data.catalog.name_matching import matcher_of
from data.datasets.candidates import cut_cube, find_table
from data.readers.tables import read_columns, read_table
from data.transforms.intensity3d import z_normalize
from data.unlabelled import collate_windows
from utils.errors import UserError
from utils.fingerprint import fingerprint_of
from utils.notes import note

TABLE = "candidates.csv"
SCAN = ("seriesuid", "file", "name")
"""Columns of the table; the first that is there has the names of volumes."""
COORDINATES = ("coordX", "coordY", "coordZ")


class FoundPoints(NamedTuple):
    """Points in the volumes of a folder."""

    files: FoundFiles
    """For each point, a name of its own and its volume."""
    scans: list[str]
    """For each point, the name of its volume."""
    points: np.ndarray
    """float64, N 3: world coordinates x y z, mm."""


def find_points(root: str | Path, *, verbose: bool) -> FoundPoints:
    """Find the volumes below a folder, and the points of its ``candidates.csv`` in them, in the order of the table.

    Without that table, LUNA16's own is read, see :func:`data.datasets.candidates.find_table`. How volumes and table
    match is reported on stderr; points in volumes that are not there are left out, and repeated ones.

    Args:
        root: the folder.
        verbose: whether to report on stderr what is left out of the folder.

    Raises:
        UserError: there are no volumes or no table; it lacks a column, or a coordinate is no number; or none of its
            points is in a volume of the folder.
    """
    root = Path(root)
    found = find_files(root, 3, verbose=verbose)
    table = root / TABLE if (root / TABLE).is_file() else find_table(root, TABLE)
    names, points = _read_points(table)
    index = VolumeIndex(root, dict(zip(found.names, found.sources, strict=True)))
    volumes = matcher_of(index).find_all(dict.fromkeys(names), source=table)
    _note_volumes(table, names, volumes, found.names)
    pairs = [(volumes[name], point) for name, point in zip(names, points, strict=True) if name in volumes]
    kept = list(dict.fromkeys(pairs))
    if len(kept) < len(pairs):
        note(f"{table}: {len(pairs) - len(kept)} repeated points are dropped")
    keys = [" ".join([volume, *map(repr, point)]) for volume, point in kept]
    files = FoundFiles(keys, [index.sources[volume] for volume, _ in kept], found.refused)
    return FoundPoints(files, [volume for volume, _ in kept], np.array([point for _, point in kept]))


def _read_points(table: Path) -> tuple[list[str], list[tuple[float, ...]]]:
    """Return the name of the volume and the coordinates of each row."""
    columns = read_columns(table)
    scan = next((column for column in SCAN if column in columns), None)
    if scan is None:
        raise UserError(f"{table}: expected a column {' or '.join(SCAN)}, got {','.join(columns) or 'none'}")
    rows = read_table(table, (scan, *COORDINATES))
    if others := [column for column in columns if column not in (scan, *COORDINATES)]:
        note(f"{table}: columns that are not used: {first_names(others)}")
    return [row[scan] for row in rows], [_point(table, number, row) for number, row in enumerate(rows, start=1)]


def _point(table: Path, number: int, row: Mapping[str, str]) -> tuple[float, ...]:
    try:
        point = tuple(float(row[column]) for column in COORDINATES)
    except ValueError:
        point = (math.nan,)
    if not all(map(math.isfinite, point)):
        got = ", ".join(row[column] for column in COORDINATES)
        raise UserError(f"{table}: expected three numbers in mm, got {got} in row {number}")
    return point


def _note_volumes(table: Path, names: Sequence[str], volumes: Mapping[str, str], there: Sequence[str]) -> None:
    listed = list(dict.fromkeys(names))
    absent = [name for name in listed if name not in volumes]
    if not volumes:
        raise UserError(
            f"{table}: expected points in the volumes of --data, none of its {len(absent)} volumes is there "
            f"({first_names(absent)}; of --data: {first_names(there)})"
        )
    lost = sum(name not in volumes for name in names)
    without = sorted({*there} - {*volumes.values()})
    note_join(
        table, Side(len(listed), "volumes with points", "in --data", f"not: {lost} points left out", absent),
        Side(len(there), "volumes of --data", "with points", "without", without),
    )  # fmt: skip


class PointCubes:
    """The cube around each point as fine-tuning evaluates it: (windows float32 1 1 X Y Z,).

    Args:
        found: the points.
        cube: voxels of 1 mm.
    """

    def __init__(self, found: FoundPoints, cube: Sequence[int]) -> None:
        self.found, self.cube = found, tuple(cube)
        self.fingerprint = fingerprint_of(repr((found.files.names, self.cube)))

    def __len__(self) -> int:
        return len(self.found.points)

    def name(self, index: int) -> str:
        return self.found.files.names[index]

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        cube = cut_cube(self.found.files.sources[index], self.found.points[index], self.cube)
        return (z_normalize(torch.from_numpy(cube).unsqueeze(0)).unsqueeze(1),)

    def collate(self, samples: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Return all cubes, and 1 for each."""
        return collate_windows(samples)
