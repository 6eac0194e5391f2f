"""The data set of crop pairs, as ``luna_preprocess.py`` or the published program wrote them."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.catalog.crop_sets import CROP_SETS, CropSet
from data.catalog.dicom_scans import holds_dicom
from data.catalog.file_index import require_folder
from data.catalog.folders import Folder, walk
from data.catalog.lists import fingerprint
from data.catalog.names import NameList
from data.catalog.scans import holds_scans, list_name
from data.readers.arrays import read_array
from utils.errors import UserError
from utils.records import RawCrops
from utils.reused_memory import stack

GLOBAL = re.compile(r"(?P<scan>.+)_global_(?P<number>\d+)\.npy")


class CropFile(NamedTuple):
    """The files of a crop pair and its local crops."""

    scan: str
    """The name in lists of the scan, or of the case with several."""
    name: str
    pair: Path
    local: Path


def find_crop_files(root: Path, split: str, crop_set: CropSet = CROP_SETS["luna"]) -> list[CropFile]:
    """Find all crop pairs of a split: of LUNA16, those in subset7 to subset9 are for validation.

    Raises:
        UserError: there is no such folder, no crop pairs in it, or one crop pair in two folders.
    """
    root = require_folder(root)
    found = [
        crop for folder in walk(root) if crop_set.split_of(folder.path) == split
        for crop in _crops_in(root, folder, crop_set)
    ]  # fmt: skip
    if not found:
        raise no_crops(root, split, crop_set)
    _check_once(found)
    return found


def no_crops(root: Path, split: str, crop_set: CropSet) -> UserError:
    """The error of a folder without crops of a split."""
    if holds_scans(root) or holds_dicom(root):
        return UserError(
            f"--data: {root} holds scans, not crops; run luna_preprocess.py --data {root} --save CROPS first"
        )
    files = crop_set.where.get(split, "{0}").format("*_global_*.npy of luna_preprocess.py")
    return UserError(f"--data: expected {files} in {root}, found none")


def _check_once(crops: Sequence[CropFile]) -> None:
    seen: dict[tuple[str, str], CropFile] = {}
    for crop in crops:
        if (other := seen.setdefault((crop.scan, crop.pair.name), crop)) is not crop:
            raise UserError(
                f"--data: expected each crop pair once, {other.pair} and {crop.pair} are of the same scan by their "
                "names; remove one of the folders, or give --data one data set"
            )


def _crops_in(root: Path, folder: Folder, crop_set: CropSet) -> Iterator[CropFile]:
    for name in folder.files:
        if match := GLOBAL.fullmatch(name):
            pair = root / folder.path / name
            local = pair.with_name(f"{match['scan']}_local_{match['number']}.npy")
            case = crop_set.case_of(list_name(folder.path, match["scan"]))
            yield CropFile(case, str(PurePosixPath(folder.path, name)), pair, local)


def read_crop(crop: CropFile) -> tuple[Tensor, Tensor]:
    """Read a crop pair: (pair float32 2 X Y Z, local float32 V x y z), stored as float16, float32 or float64.

    Raises:
        UserError: a file is missing or cut short, holds objects, or has a wrong shape or values that are not finite.
    """
    pair, local = _read_array(crop.pair), _read_array(crop.local)
    if len(pair) != 2:
        raise UserError(f"{crop.pair}: expected two crops, shape (2, x, y, z), got {tuple(pair.shape)}")
    return pair, local


def _read_array(path: Path) -> Tensor:
    array = read_array(path, what="crops")
    if array.ndim != 4 or array.dtype.kind != "f" or not array.size:
        raise UserError(f"{path}: expected crops of floating point numbers with 4 dimensions")
    array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        raise UserError(f"{path}: holds values that are not finite")
    return torch.from_numpy(array)


class CropFiles:
    """Crop pairs of CT: (pair float32 2 X Y Z, local float32 V x y z).

    Args:
        crops: the files.
        names: the scans that they were cut from, as listed.
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
        """Stack crops."""
        return RawCrops(*(stack(field) for field in zip(*samples, strict=True)))
