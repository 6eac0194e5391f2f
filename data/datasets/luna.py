"""The data set of crop pairs of CT, as ``luna_preprocess.py`` or the published program wrote them."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.catalog.crop_manifest import MANIFEST, read_failures
from data.catalog.file_index import FileIndex, ListedFiles, require_folder
from data.catalog.folders import Folder, walk
from data.catalog.joins import first_names
from data.catalog.lists import fingerprint, list_path, seeded_order, write_list_once
from data.catalog.names import NameList
from data.catalog.scans import holds_scans, list_name, split_of
from data.readers.arrays import read_array
from utils.errors import UserError
from utils.notes import note
from utils.records import RawCrops
from utils.reused_memory import stack

SPLITS = ("train", "valid")
PLACES = {"train": "subset0..6 with {0}, or such files in folders of another name,", "valid": "subset7..9 with {0}"}
GLOBAL = re.compile(r"(?P<scan>.+)_global_(?P<number>\d+)\.npy")


class CropFile(NamedTuple):
    """The files of a crop pair and its local crops."""

    scan: str
    name: str
    pair: Path
    local: Path


def find_crop_files(root: Path, split: str) -> list[CropFile]:
    """Find all crop pairs of a split: those in subset7 to subset9 are for validation, all others for pre-training.

    Raises:
        UserError: there is no such folder, no crop pairs in it, or one crop pair in two folders.
    """
    root = require_folder(root)
    found = [crop for folder in walk(root) if split_of(folder.path) == split for crop in _crops_in(root, folder)]
    if not found and holds_scans(root):
        raise UserError(
            f"--data: {root} holds scans, not crops; run luna_preprocess.py --data {root} --save CROPS first"
        )
    if not found:
        raise UserError(
            f"--data: expected {PLACES[split].format('*_global_*.npy of luna_preprocess.py')} in {root}, found none"
        )
    _check_once(found)
    return found


def note_validation(root: Path) -> None:
    """Report on stderr the scans that are not used for pre-training."""
    scans = {crop.scan for folder in walk(root) if split_of(folder.path) == "valid" for crop in _crops_in(root, folder)}
    if scans:
        note(f"{root}: {len(scans)} scans in subset7 to subset9 are for validation, and not pre-trained on")


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


def leave_out_failed(listed: ListedFiles, root: Path) -> ListedFiles:
    """Return the listed scans without those that preprocessing recorded as failed, which are counted on stderr.

    They do not count for ``--max_bad`` here, since they did in preprocessing. A failed scan with crops has been
    preprocessed again since, and is kept.
    """
    failures = read_failures(root)
    failed = np.array([name in failures for name in listed.names], dtype=bool) & ~listed.there
    if not failed.any():
        return listed
    note(
        f"{listed.source}: {int(failed.sum())} of its {len(listed.names)} scans gave no crops when they were "
        f"preprocessed and are left out ({first_names(listed.names.keep(failed))}); {root / MANIFEST} says why"
    )
    return listed._replace(names=listed.names.keep(~failed), places=listed.places[~failed])


def make_luna_lists(root: Path, lists: Path, *, seed: int) -> None:
    """Write ``luna_train.txt`` and, if there are scans for validation, ``luna_valid.txt`` from the scans found."""
    for split in SPLITS:
        try:
            scans = {crop.scan for crop in find_crop_files(root, split)}
        except UserError:
            if split == "train":
                raise
            continue
        write_list_once(list_path(lists, "luna", split), seeded_order(scans, seed), source=str(root))


def index_crops(root: Path, crops: Sequence[CropFile]) -> FileIndex:
    """Return the index of the scans that crops were cut from."""
    return FileIndex([root], [NameList.of(sorted({crop.scan for crop in crops}))])


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
