"""Nodule candidates of LUNA16: cubes around the points of a table, each a nodule or a false positive."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.catalog.crop_manifest import CROPS
from data.catalog.file_index import FileIndex, require_folder
from data.catalog.folders import walk
from data.catalog.joins import Side, first_names, note_join, unique
from data.catalog.list_folders import ListFolders, open_list
from data.catalog.lists import list_path, seeded_order, write_list_once
from data.catalog.names import NameList
from data.catalog.scans import SCANS, ScanFile, find_scans, is_subset, split_of
from data.catalog.splits import Listed, split_by_patient
from data.readers.cubes import load_cube
from data.readers.tables import read_table
from data.readers.volumes import Source
from data.transforms.hounsfield import LOWEST, scale
from utils.errors import UserError
from utils.fingerprint import fingerprint_of
from utils.notes import note
from utils.records import LabelledCubes
from utils.reused_memory import stack
from utils.seeding import numpy_generator

TABLE = "candidates_V2.csv"
COLUMNS = ("seriesuid", "coordX", "coordY", "coordZ", "class")
CUBE = (48, 48, 32)
"""Voxels of 1 mm: the largest nodules are some 30 mm; the encoder halves each side three times."""
# LUNA16 has some 480 false positives per nodule. An epoch has each nodule at most this many times, each time
# augmented differently, and as many false positives, others in the next epoch.
REPEATS = 10


class Candidates(NamedTuple):
    """Points in scans, with their labels."""

    scans: list[str]
    """Names of scans."""
    scan_index: np.ndarray
    """int, N: which of ``scans`` each point is in."""
    points: np.ndarray
    """float64, N 3: world coordinates x y z, mm."""
    labels: np.ndarray
    """float32, N 1: 1 for a nodule."""

    def in_scans(self, scans: Sequence[str]) -> "Candidates":
        """Return the candidates in some of the scans."""
        names = set(scans)
        wanted = np.isin(self.scan_index, [i for i, scan in enumerate(self.scans) if scan in names])
        return Candidates(self.scans, self.scan_index[wanted], self.points[wanted], self.labels[wanted])


def read_candidates(path: Path) -> Candidates:
    """Read the table of candidates.

    Raises:
        UserError: it cannot be read or lacks a column; coordinates are not finite numbers, a class is neither 0 nor 1,
            or a point has both classes.
    """
    rows = read_table(path, COLUMNS)
    names = sorted({row["seriesuid"] for row in rows})
    position = {name: i for i, name in enumerate(names)}
    points, labels = np.zeros((len(rows), 3)), np.zeros((len(rows), 1), dtype=np.float32)
    for number, row in enumerate(rows):
        try:
            points[number] = [float(row[column]) for column in COLUMNS[1:4]]
            labels[number] = {"0": 0, "1": 1}[row["class"]]
        except (ValueError, KeyError):
            points[number] = math.nan
        if not np.isfinite(points[number]).all():
            raise UserError(
                f"{path}: expected three numbers in mm and a class of 0 or 1, got {list(row.values())} in row "
                f"{number + 1}"
            )
    points_of_rows = ((" ".join(row[column] for column in COLUMNS[:4]), row["class"]) for row in rows)
    unique(points_of_rows, source=path, what="classes", counted=False)
    return Candidates(names, np.array([position[row["seriesuid"]] for row in rows], dtype=int), points, labels)


def find_table(root: Path, instead_of: str = "") -> Path:
    """Find ``candidates_V2.csv`` in the data set's folder, its ``CSVFILES/``, or the folder above.

    Args:
        root: the folder.
        instead_of: a table in the folder that was looked for before, for the error message.

    Raises:
        UserError: it is in none of them.
    """
    paths = [folder / TABLE for folder in (root, root / "CSVFILES", root.parent, root.parent / "CSVFILES")]
    for path in paths:
        if path.is_file():
            return path
    wanted = f"{instead_of} in {root}, or {TABLE} there" if instead_of else f"{TABLE} in {root}"
    raise UserError(f"--data: expected {wanted}, its CSVFILES/ or the folder above, found none")


def find_ct(root: Path) -> dict[str, ScanFile]:
    """Find the scans below a folder, by their names in lists.

    Raises:
        UserError: there are none, or two have the same name.
    """
    found = find_scans(root)
    for line in found.unreadable:
        note(f"--data: left out: {line}")
    if not found.scans:
        crops = any(CROPS.fullmatch(name) for folder in walk(root) for name in folder.files)
        what = "it holds crops; give the folder of the scans that they were cut from" if crops else "found none"
        raise UserError(f"--data: expected scans ({', '.join(SCANS)}) in {root}, {what}")
    return {scan.listed: scan for scan in found.scans}


def cut_cube(source: Source, point: Sequence[float], shape: Sequence[int]) -> np.ndarray:
    """Cut a cube of 1 mm voxels around a point, along the axes used in pre-training.

    Only the part of the scan around the point is read and resampled: resampling a whole scan takes seconds, and storing
    the cubes of all candidates of LUNA16 would take 110 GB.

    Args:
        source: the scan.
        point: world coordinates x y z, mm.
        shape: voxels.

    Returns:
        float32 of ``shape`` in 0..1; air outside of the scan.

    Raises:
        UserError: the scan is damaged, or the point is outside of it.
    """
    as_stored = isinstance(source, Path) and is_subset(source.absolute().parent.name)
    cube = load_cube(source, point, shape, outside=LOWEST, as_stored=as_stored)
    return np.ascontiguousarray(scale(cube))


class CandidateCubes:
    """Each candidate once: (cube float32 1 X Y Z in 0..1, labels float32 1).

    Args:
        candidates: the points.
        files: the files of their scans, by name.
        cube: voxels.
    """

    def __init__(self, candidates: Candidates, files: dict[str, Path], cube: Sequence[int]) -> None:
        self.candidates, self.files, self.cube = candidates, files, tuple(cube)
        self.patients = [candidates.scans[i] for i in candidates.scan_index]
        self.fingerprint = fingerprint_of(repr((self.patients, self.cube)), candidates.points, candidates.labels)

    def __len__(self) -> int:
        return len(self.candidates.labels)

    def name(self, index: int) -> str:
        return " ".join([self.patients[index], *(f"{x:.6g}" for x in self.candidates.points[index])])

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        cube = cut_cube(self.files[self.patients[index]], self.candidates.points[index], self.cube)
        return torch.from_numpy(cube).unsqueeze(0), torch.from_numpy(self.candidates.labels[index])

    def collate(self, samples: Sequence[tuple[Tensor, ...]]) -> LabelledCubes:
        """Stack cubes and labels."""
        return LabelledCubes(*(stack(field) for field in zip(*samples, strict=True)))


class BalancedCubes(CandidateCubes):
    """As many nodules as false positives: samples of even index are nodules, those of odd index false positives.

    False positives are in a seeded order that continues from epoch to epoch, so that all are used before any is used
    again.

    Args:
        candidates, files, cube: as in :class:`CandidateCubes`.
        seed: of that order.

    Raises:
        UserError: there are no nodules, or no false positives.
    """

    def __init__(self, candidates: Candidates, files: dict[str, Path], cube: Sequence[int], *, seed: int) -> None:
        super().__init__(candidates, files, cube)
        positive = candidates.labels[:, 0] == 1
        self.nodules, others = np.flatnonzero(positive), np.flatnonzero(~positive)
        self.others = numpy_generator(seed, "false positives").permutation(others)
        if not len(self.nodules) or not len(others):
            raise UserError(
                f"--ratio: expected nodules and false positives to train on, got {len(self.nodules)} and {len(others)} "
                f"in {len(set(self.patients))} scans; give a smaller --ratio"
            )
        self.half = min(max(len(self.nodules), len(others)), REPEATS * len(self.nodules))

    def __len__(self) -> int:
        return 2 * self.half

    def candidate_of(self, epoch: int, index: int) -> int:
        """Return which candidate is sample ``index`` of an epoch."""
        order, first = (self.others, epoch * self.half) if index % 2 else (self.nodules, 0)
        return int(order[(first + index // 2) % len(order)])

    def name(self, index: int) -> str:
        return f"sample {index} of an epoch"

    def draw(self, epoch: int, index: int) -> tuple[Tensor, ...]:
        """Return a sample of an epoch."""
        return super().__getitem__(self.candidate_of(epoch, index))

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return self.draw(0, index)


class CandidateSplits(NamedTuple):
    """The data of one fine-tuning."""

    train: BalancedCubes
    valid: CandidateCubes
    test: CandidateCubes
    test_source: str
    """Where the test split comes from, in words."""


def open_candidates(
    *, root: str | Path, lists: ListFolders, ratio: float, seed: int, cube: Sequence[int] = CUBE, max_bad: float = 0.01
) -> CandidateSplits:
    """Open the splits, by scan: training and validation from the rest of ``luna_train.txt`` after ``ratio``, and test.

    The test split is ``luna_test.txt``, else subset7 to subset9, else a fifth of the rest; the validation split is
    ``luna_valid.txt``, else a tenth of the rest. A missing training list is made from the scans of the other subsets
    and kept, as for pre-training.

    Args:
        root: the folder of the scans.
        lists: the folders of lists.
        ratio: the share of the list used for pre-training.
        seed: of the splits, and of the order of a list that is made.
        cube: voxels of 1 mm.
        max_bad: share of the listed scans that may be missing.

    Raises:
        UserError: there are no scans, no table or a wrong one, listed scans are missing, or there are too few scans or
            candidates.
    """
    root = require_folder(root)
    scans = find_ct(root)
    table = find_table(root)
    candidates = read_candidates(table)
    _note_scans(table, candidates, scans)
    train, valid = ([name for name in scans if split_of(scans[name].folder) == split] for split in ("train", "valid"))
    if not train:
        raise UserError(f"--data: expected scans of subset0 to subset6 to train on in {root}, found others only")

    def make(folder: Path) -> None:
        write_list_once(list_path(folder, "luna", "train"), seeded_order(train, seed), source=str(root))

    listed = open_list(lists, "luna", FileIndex([root], [NameList.of(sorted(train))]), make=make, what="scans")
    _, rest = listed.cut(ratio)
    index = FileIndex([root], [NameList.of(sorted(scans))])
    given = {split: lists.read("luna", split, index) for split in ("valid", "test")}
    listed_test = given["test"] is not None
    with_candidates = {candidates.scans[i] for i in np.unique(candidates.scan_index)}

    def usable(names: Iterable[str]) -> Listed:
        kept = [name for name in names if name in with_candidates]
        return Listed(kept, kept)

    of_valid, of_test = (usable(one.found(max_bad=max_bad).names if one else ()) for one in given.values())
    test = of_test if listed_test else usable(valid)
    splits = split_by_patient(usable(rest.found(max_bad=max_bad).names), valid=of_valid, test=test, seed=seed)
    files = {name: scan.path for name, scan in scans.items()}
    return CandidateSplits(
        BalancedCubes(candidates.in_scans(splits.train), files, cube, seed=seed),
        CandidateCubes(candidates.in_scans(splits.valid), files, cube),
        CandidateCubes(candidates.in_scans(splits.test), files, cube),
        "luna_test.txt" if listed_test else "subset7 to subset9" if test.names else "a fifth of the scans, held out",
    )


def _note_scans(table: Path, candidates: Candidates, scans: Mapping[str, ScanFile]) -> None:
    """Report how table and scans match: users may have the table of all scans and only some of the subsets."""
    absent = [name for name in candidates.scans if name not in scans]
    lost = len(candidates.in_scans(absent).labels)
    if len(absent) == len(candidates.scans):
        raise UserError(
            f"{table}: expected candidates in the scans of --data, none of its {len(absent)} scans is there "
            f"({first_names(absent)}; of --data: {first_names(list(scans))})"
        )
    without = sorted(scans.keys() - set(candidates.scans))
    note_join(
        table,
        Side(len(candidates.scans), "scans with candidates", "in --data", f"not: {lost} candidates left out", absent),
        Side(len(scans), "scans of --data", "with candidates", "without: left out", without),
    )  # fmt: skip
