"""Nodule candidates of LUNA16: cubes cut about points of a table, nodule or false positive."""

import hashlib
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from data.catalog.file_index import FileIndex, find, require_folder
from data.catalog.lists import cut_list, list_path, read_names, seeded_order, write_list_once
from data.catalog.names import NameList
from data.catalog.splits import split_by_patient
from data.datasets.luna import SUBSETS
from data.readers.tables import read_table
from data.readers.volumes import SPACING, read_header
from data.transforms.hounsfield import LOWEST, scale
from utils.errors import UserError
from utils.records import LabelledCubes
from utils.reused_memory import stack
from utils.seeding import numpy_generator

TABLE = "candidates_V2.csv"
COLUMNS = ("seriesuid", "coordX", "coordY", "coordZ", "class")
CUBE = (48, 48, 32)
"""Voxels of 1 mm: the largest nodules are some 30 mm; the encoder halves each side three times."""
# Some 480 false positives to a nodule: an epoch shows every nodule so often, each time moved another way, and as many
# false positives, other ones in the next epoch.
REPEATS = 10


class Candidates(NamedTuple):
    """Points, and what they are."""

    scans: list[str]
    """Names of scans."""
    of_scan: np.ndarray
    """int, N: the scan of each point."""
    points: np.ndarray
    """float64, N 3: world coordinates x y z, mm."""
    labels: np.ndarray
    """float32, N 1: 1 for a nodule."""

    def of(self, scans: Sequence[str]) -> "Candidates":
        """Those of some scans."""
        names = set(scans)
        wanted = np.isin(self.of_scan, [i for i, scan in enumerate(self.scans) if scan in names])
        return Candidates(self.scans, self.of_scan[wanted], self.points[wanted], self.labels[wanted])


def read_candidates(path: Path) -> Candidates:
    """The table of candidates.

    Raises:
        UserError: it cannot be read, lacks a column, or a point is no point; a class is neither 0 nor 1.
    """
    rows = read_table(path, COLUMNS)
    names = sorted({row["seriesuid"] for row in rows})
    place = {name: i for i, name in enumerate(names)}
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
    return Candidates(names, np.array([place[row["seriesuid"]] for row in rows], dtype=int), points, labels)


def find_table(root: Path) -> Path:
    """``candidates_V2.csv`` in the data set's folder, its ``CSVFILES/``, or the folder above.

    Raises:
        UserError: it is in none of them.
    """
    places = [folder / TABLE for folder in (root, root / "CSVFILES", root.parent, root.parent / "CSVFILES")]
    for path in places:
        if path.is_file():
            return path
    raise UserError(f"--data: expected {TABLE} in {root}, its CSVFILES/ or the folder above, found none")


def find_scans(root: Path) -> dict[str, list[Path]]:
    """``subsetK/*.mhd`` of each part, by name.

    Raises:
        UserError: there are none.
    """
    found = {part: [path for k in subsets for path in find(root, f"subset{k}/*.mhd")] for part, subsets in
             SUBSETS.items()}  # fmt: skip
    if not any(found.values()):
        crops = bool(find(root, "subset*/*_global_*.npy"))
        what = "it holds crops; give the folder that they were made of" if crops else "found none"
        raise UserError(f"--data: expected scans, subsetK/*.mhd, in {root}, {what}")
    return found


def scan_name(path: Path) -> str:
    """The file's name without ``.mhd``: the series' UID, which is full of dots."""
    return path.name.removesuffix(".mhd")


def cut_cube(path: Path, point: Sequence[float], shape: Sequence[int]) -> np.ndarray:
    """A cube of 1 mm voxels about a point, along the scan's own axes as those of pre-training.

    Only the part of the scan about the point is read, and only that is resampled: to resample a whole scan takes
    seconds, and cubes of all candidates of LUNA16 would fill 110 GB.

    Args:
        path: the scan.
        point: world coordinates x y z, mm.
        shape: voxels.

    Returns:
        float32 of ``shape`` in 0..1; air where the cube leaves the scan.

    Raises:
        UserError: the scan is damaged, or the point lies outside of it.
    """
    header = read_header(path)
    try:
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.SetImageIO("MetaImageIO")
        reader.ReadImageInformation()
        axes = np.array(reader.GetDirection()).reshape(3, 3)
        spacing, half = np.array(header.spacing), (np.array(shape) - 1) / 2 * SPACING
        # Directions are orthonormal: their inverse is their transpose.
        centre = axes.T @ (np.array(point) - np.array(reader.GetOrigin())) / spacing
        size = np.array(header.size)
        if ((centre < -0.5) | (centre > size - 0.5)).any():
            raise UserError(
                f"{path}: expected candidates within the scan, {tuple(map(float, point))} mm is voxel "
                f"{centre.round(1).tolist()} of {size.tolist()}"
            )
        # One voxel more on each side, for the interpolation.
        low = np.clip(np.floor(centre - half / spacing).astype(int) - 1, 0, size - 1)
        high = np.clip(np.ceil(centre + half / spacing).astype(int) + 2, low + 1, size)
        reader.SetExtractIndex(low.tolist())
        reader.SetExtractSize((high - low).tolist())
        start = np.array(point) - axes @ half
        cube = sitk.Resample(
            reader.Execute(), list(shape), sitk.Transform(), sitk.sitkLinear, start.tolist(), (SPACING,) * 3,
            reader.GetDirection(), LOWEST, sitk.sitkInt16,
        )  # fmt: skip
    except RuntimeError as error:
        reason = str(error).strip().rpartition("\n")[2]
        raise UserError(f"{path}: expected a CT scan, it cannot be read ({reason})") from None
    return np.ascontiguousarray(scale(sitk.GetArrayFromImage(cube).transpose(2, 1, 0)))


class CandidateCubes:
    """Every candidate once: (cube float32 1 X Y Z in 0..1, labels float32 1).

    Args:
        candidates: the points.
        files: of their scans, by name.
        cube: voxels.
    """

    def __init__(self, candidates: Candidates, files: dict[str, Path], cube: Sequence[int]) -> None:
        self.candidates, self.files, self.cube = candidates, files, tuple(cube)
        self.patients = [candidates.scans[i] for i in candidates.of_scan]
        digest = hashlib.blake2b(repr((self.patients, self.cube)).encode(), digest_size=8)
        digest.update(candidates.points.tobytes() + candidates.labels.tobytes())
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.candidates.labels)

    def name(self, index: int) -> str:
        return " ".join([self.patients[index], *(f"{x:.6g}" for x in self.candidates.points[index])])

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        cube = cut_cube(self.files[self.patients[index]], self.candidates.points[index], self.cube)
        return torch.from_numpy(cube).unsqueeze(0), torch.from_numpy(self.candidates.labels[index])

    def collate(self, samples: Sequence[tuple[Tensor, ...]]) -> LabelledCubes:
        """Cubes and labels stacked."""
        return LabelledCubes(*(stack(field) for field in zip(*samples, strict=True)))


class BalancedCubes(CandidateCubes):
    """As many nodules as false positives: even samples are the former, odd ones the latter.

    False positives come in a seeded order that goes on from epoch to epoch, so that each is seen before any is seen
    again.

    Args:
        candidates, files, cube: as in :class:`CandidateCubes`.
        seed: of that order.

    Raises:
        UserError: there is none of either.
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

    def which(self, epoch: int, index: int) -> int:
        """The candidate that an epoch shows as its sample ``index``."""
        kind, number = (self.others, epoch * self.half) if index % 2 else (self.nodules, 0)
        return int(kind[(number + index // 2) % len(kind)])

    def name(self, index: int) -> str:
        return f"sample {index} of an epoch"

    def draw(self, epoch: int, index: int) -> tuple[Tensor, ...]:
        """The sample of an epoch."""
        return super().__getitem__(self.which(epoch, index))

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return self.draw(0, index)


class CandidateSplits(NamedTuple):
    """The data of one fine-tuning."""

    train: BalancedCubes
    valid: CandidateCubes
    test: CandidateCubes
    test_source: str
    """Where the test part comes from, in words."""


def open_candidates(
    *, root: str | Path, lists: str | Path, ratio: float, seed: int, cube: Sequence[int] = CUBE
) -> CandidateSplits:
    """Training, validation and test part, split by scan: the rest of ``luna_train.txt`` after ``ratio``, and the test.

    The test part is subset7 to subset9 where they are there, else a fifth of the rest. Where there is no list, it is
    made of the scans of subset0 to subset6 and kept, as for pre-training.

    Args:
        root: LUNA16's folder.
        lists: the folder of the lists.
        ratio: the share of the list that pre-trains.
        seed: of the splits, and of the order of a list that is made.
        cube: voxels of 1 mm.

    Raises:
        UserError: no scans, no table or a wrong one, a listed scan that is not there, or too few scans or candidates.
    """
    root = require_folder(root)
    scans = find_scans(root)
    files = {scan_name(path): path for part in scans.values() for path in part}
    table = find_table(root)
    candidates = read_candidates(table)
    _say_absent(table, candidates, files, root)
    training = list_path(lists, "luna", "train")
    if not training.exists() and not scans["train"]:
        raise UserError(f"--data: expected scans of subset0 to subset6 to train on in {root}, found others only")
    if not training.exists():
        write_list_once(training, seeded_order([scan_name(path) for path in scans["train"]], seed), source=str(root))
    _, rest = cut_list(read_names(training), ratio)
    FileIndex([root], [NameList.of(sorted(files))]).locate(rest, source=training)
    known = {candidates.scans[i] for i in np.unique(candidates.of_scan)}
    names = [name for name in rest if name in known]
    test = [name for path in scans["valid"] if (name := scan_name(path)) in known]
    parts = split_by_patient(names, names, test=test, test_patients=test, seed=seed)
    return CandidateSplits(
        BalancedCubes(candidates.of(parts.train), files, cube, seed=seed),
        CandidateCubes(candidates.of(parts.valid), files, cube),
        CandidateCubes(candidates.of(parts.test), files, cube),
        "subset7 to subset9" if test else "a fifth of the scans, held out",
    )


def _say_absent(table: Path, candidates: Candidates, files: dict[str, Path], root: Path) -> None:
    """People who fetched some subsets have the table of all."""
    absent = [i for i, name in enumerate(candidates.scans) if name not in files]
    if len(absent) == len(candidates.scans):
        raise UserError(
            f"{table}: expected candidates in the scans of {root}, none of its {len(absent)} scans is there"
        )
    if absent:
        count = int(np.isin(candidates.of_scan, absent).sum())
        print(
            f"{table}: {count} candidates in {len(absent)} scans that are not in {root} are left out "
            f"({candidates.scans[absent[0]]})", file=sys.stderr
        )  # fmt: skip
