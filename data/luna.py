"""Crop pairs that ``luna_preprocess.py`` wrote, by it or by the published program."""

import re
import tokenize
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.file_index import FileIndex, find, require_folder
from data.lists import keep_list, list_path, seeded_order
from data.names import NameList
from utils.errors import UserError

# Of LUNA16's ten subsets the published program pre-trains on the first seven and validates on the rest.
SUBSETS = {"train": range(7), "valid": range(7, 10)}
GLOBAL = re.compile(r"(?P<scan>.+)_global_(?P<number>\d+)\.npy")

# What NumPy raises for files that were cut short or are something else.
UNREADABLE = (
    OSError, ValueError, EOFError, MemoryError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile,
)  # fmt: skip


class CropFile(NamedTuple):
    """One crop pair and its local crops."""

    scan: str
    name: str
    pair: Path
    local: Path


def scan_folder(root: Path, part: str) -> list[CropFile]:
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
            scans = {crop.scan for crop in scan_folder(root, part)}
        except UserError:
            if part == "train":
                raise
            continue
        keep_list(list_path(lists, "luna", part), seeded_order(scans, seed), source=str(root))


def find_crops(root: Path, names: NameList, *, part: str, source: Path) -> list[CropFile]:
    """The crop pairs of the listed scans.

    Raises:
        UserError: no crop pair of some listed scan is there; says how many, and the first five.
    """
    crops = scan_folder(root, part)
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
