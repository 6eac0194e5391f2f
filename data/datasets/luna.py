"""Crop pairs that ``luna_preprocess.py`` wrote, by it or by the published program."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.catalog.file_index import FileIndex, find, require_folder
from data.catalog.lists import fingerprint, list_path, seeded_order, write_list_once
from data.catalog.names import NameList
from data.readers.arrays import UNREADABLE
from utils.errors import UserError
from utils.records import RawCrops
from utils.reused_memory import stack

# Of LUNA16's ten subsets the published program pre-trains on the first seven and validates on the rest.
SUBSETS = {"train": range(7), "valid": range(7, 10)}
GLOBAL = re.compile(r"(?P<scan>.+)_global_(?P<number>\d+)\.npy")


class CropFile(NamedTuple):
    """One crop pair and its local crops."""

    scan: str
    name: str
    pair: Path
    local: Path


def find_crop_files(root: Path, part: str) -> list[CropFile]:
    """All crop pairs of a part, in order of their names.

    Raises:
        UserError: no such folder, or no crop pairs in its subsets.
    """
    root = require_folder(root)
    found = []
    for number in SUBSETS[part]:
        folder = root / f"subset{number}"
        for path in find(folder):
            if match := GLOBAL.fullmatch(path.name):
                local = folder / f"{match['scan']}_local_{match['number']}.npy"
                found.append(CropFile(match["scan"], f"{folder.name}/{path.name}", path, local))
    if not found and find(root, "subset*/*.mhd"):
        raise UserError(
            f"--data: {root} holds scans, not crops; run luna_preprocess.py --data {root} --save CROPS first"
        )
    if not found:
        subsets = f"subset{SUBSETS[part][0]}..{SUBSETS[part][-1]}"
        raise UserError(f"--data: expected {subsets} with *_global_*.npy of luna_preprocess.py in {root}, found none")
    return found


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
