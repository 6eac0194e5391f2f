"""Crop pairs that ``luna_preprocess.py`` wrote, by it or by the published program."""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.catalog.file_index import SHOWN, FileIndex, require_folder
from data.catalog.folders import Folder, walk
from data.catalog.lists import fingerprint, list_path, seeded_order, write_list_once
from data.catalog.names import NameList
from data.catalog.scans import holds_scans, list_name, split_of
from data.readers.arrays import UNREADABLE
from utils.errors import UserError
from utils.records import RawCrops
from utils.reused_memory import stack

# Of LUNA16's ten subsets the published program pre-trains on the first seven and validates on the rest.
SUBSETS = {"train": range(7), "valid": range(7, 10)}
PLACES = {"train": "subset0..6 with {0}, or such files in folders of another name,", "valid": "subset7..9 with {0}"}
GLOBAL = re.compile(r"(?P<scan>.+)_global_(?P<number>\d+)\.npy")


class CropFile(NamedTuple):
    """One crop pair and its local crops."""

    scan: str
    name: str
    pair: Path
    local: Path


def find_crop_files(root: Path, part: str) -> list[CropFile]:
    """All crop pairs of a part, folder by folder: those in subset7 to subset9 validate, all others pre-train.

    Raises:
        UserError: no such folder, no crop pairs in it, or one crop pair in two folders.
    """
    root = require_folder(root)
    found = [crop for folder in walk(root) if split_of(folder.path) == part for crop in _crops_in(root, folder)]
    if not found and holds_scans(root):
        raise UserError(
            f"--data: {root} holds scans, not crops; run luna_preprocess.py --data {root} --save CROPS first"
        )
    if not found:
        raise UserError(
            f"--data: expected {PLACES[part].format('*_global_*.npy of luna_preprocess.py')} in {root}, found none"
        )
    _check_once(found)
    return found


def _check_once(crops: Sequence[CropFile]) -> None:
    seen: dict[tuple[str, str], CropFile] = {}
    for crop in crops:
        if (other := seen.setdefault((crop.scan, crop.pair.name), crop)) is not crop:
            raise UserError(
                f"--data: expected each crop pair once, {other.pair} and {crop.pair} are of the same scan by their "
                "names; remove one of the folders, or give --data one data set"
            )


def _crops_in(root: Path, folder: Folder) -> Iterator[CropFile]:
    for name in folder.files:
        if match := GLOBAL.fullmatch(name):
            pair = root / folder.path / name
            local = pair.with_name(f"{match['scan']}_local_{match['number']}.npy")
            yield CropFile(list_name(folder.path, match["scan"]), str(PurePosixPath(folder.path, name)), pair, local)


def read_failures(root: Path) -> dict[str, str]:
    """The scans that gave no crops when they were preprocessed, and why, as the manifest beside the crops has it."""
    try:
        failures = json.loads((root / "manifest.json").read_text(encoding="utf-8"))["failures"]
    except (OSError, ValueError, KeyError, TypeError):  # of the published program, or of a run that was stopped
        return {}
    return failures if isinstance(failures, dict) else {}


def leave_out_failed(root: Path, names: NameList, *, part: str, source: Path) -> NameList:
    """The listed scans without those that preprocessing recorded as failed, which are counted on stderr.

    Raises:
        UserError: as :func:`find_crop_files`.
    """
    failures = set(read_failures(root))
    if failures:  # with crops, a scan has been mended since
        failures -= {crop.scan for crop in find_crop_files(root, part)}
    failed = [name for name in names if name in failures] if failures else []
    if failed:
        first = ", ".join(failed[:SHOWN]) + (", ..." if len(failed) > SHOWN else "")
        print(
            f"{source}: {len(failed)} of its {len(names)} scans gave no crops when they were preprocessed and are left "
            f"out ({first}); {root / 'manifest.json'} says why", file=sys.stderr
        )  # fmt: skip
        names = NameList.of(name for name in names if name not in failures)
    return names


def make_luna_lists(root: Path, lists: Path, *, seed: int) -> None:
    """Make ``luna_train.txt`` and, where there are such subsets, ``luna_valid.txt`` from the scans found; keep them."""
    for part in SUBSETS:
        try:
            scans = {crop.scan for crop in find_crop_files(root, part)}
        except UserError:
            if part == "train":
                raise
            continue
        write_list_once(list_path(lists, "luna", part), seeded_order(scans, seed), source=str(root))


def find_crops(root: Path, names: NameList, *, part: str, source: Path) -> list[CropFile]:
    """The crop pairs of the listed scans.

    Raises:
        UserError: no crop pair of some listed scan is there; says how many, and the first five.
    """
    crops = find_crop_files(root, part)
    index = FileIndex([root], [NameList.of(sorted({crop.scan for crop in crops}))])
    index.locate(names, source=source)
    wanted = set(names)
    return [crop for crop in crops if crop.scan in wanted]


def read_crop(crop: CropFile) -> tuple[Tensor, Tensor]:
    """(pair float32 2 X Y Z, local float32 V x y z) from float16, float32 or the published float64.

    Raises:
        UserError: a file is missing, cut short, holds objects, has the wrong shape, or values that are not finite.
    """
    pair, local = _read_array(crop.pair), _read_array(crop.local)
    if len(pair) != 2:
        raise UserError(f"{crop.pair}: expected two crops, shape (2, x, y, z), got {tuple(pair.shape)}")
    return pair, local


def _read_array(path: Path) -> Tensor:
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"expected crops, there is no file {path}") from None
    except UNREADABLE as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: expected an array of crops, it is damaged or something else ({reason})") from None
    if not isinstance(array, np.ndarray) or array.ndim != 4 or array.dtype.kind != "f" or not array.size:
        raise UserError(f"{path}: expected crops of floating point numbers with 4 dimensions")
    array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        raise UserError(f"{path}: holds values that are not finite")
    return torch.from_numpy(array)


class CropFiles:
    """Crop pairs of CT: (pair float32 2 X Y Z, local float32 V x y z).

    Args:
        crops: the files.
        names: the scans that they come from, as listed.
    """

    def __init__(self, crops: Sequence[CropFile], names: NameList) -> None:
        self.crops = list(crops)
        self.fingerprint = fingerprint(names)
        self.shapes = tuple(tuple(x.shape) for x in self._first_readable())

    def _first_readable(self) -> tuple[Tensor, ...]:
        for crop in self.crops:
            try:
                return read_crop(crop)
            except UserError as error:
                last = error
        raise last

    def __len__(self) -> int:
        return len(self.crops)

    def name(self, index: int) -> str:
        return self.crops[index].name

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        sample = read_crop(self.crops[index])
        shapes = tuple(tuple(x.shape) for x in sample)
        if shapes != self.shapes:
            raise UserError(
                f"{self.crops[index].pair}: expected crops of {self.shapes}, as in the first file, got {shapes}"
            )
        return sample

    def collate(self, samples: Sequence[tuple[Tensor, ...]]) -> RawCrops:
        """Crops stacked."""
        return RawCrops(*(stack(field) for field in zip(*samples, strict=True)))
