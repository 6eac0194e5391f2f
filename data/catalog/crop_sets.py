"""The 3D data sets of pre-training: which case and split preprocessed scans belong to."""

import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

from data.catalog.scans import split_of

LITS_SCAN = re.compile(r"(?:.*/)?(train|test)/CT/volume-?(\d+)")


class CropSet(NamedTuple):
    """What differs between the 3D data sets."""

    case_of: Callable[[str], str] = str
    """The name in the data set's lists of a scan, which has a name with its folders."""
    split_of: Callable[[str], str] = lambda folder: "train"
    """``'train'``, ``'valid'`` or ``'test'``, by a scan's folder relative to the data set's."""
    held_out: str = ""
    """The folders of other splits than that for training, in words."""
    where: Mapping[str, str] = {}
    """The files expected of a split, in words; {0} stands for their names."""


def brats_case(scan: str) -> str:
    """Return the patient of an image of BraTS, as fine-tuning names it: ``HGG/ID/ID_t1`` is of ``ID``."""
    return PurePosixPath(scan).parent.name or scan


def lits_case(scan: str) -> str:
    """Return the case of a scan of LiTS, as fine-tuning names it: ``train/CT/volume-3`` is ``train_volume3``."""
    match = LITS_SCAN.fullmatch(scan)
    return f"{match[1]}_volume{int(match[2])}" if match else scan


def lits_split(folder: str) -> str:
    """Return the split of a folder of LiTS."""
    return "test" if "test" in PurePosixPath(folder).parts else "train"


CROP_SETS = {
    "luna": CropSet(
        split_of=split_of, held_out="subset7 to subset9",
        where={
            "train": "subset0..6 with {0}, or such files in folders of another name,",
            "valid": "subset7..9 with {0}",
        },
    ),
    "folder": CropSet(),
    "brats": CropSet(case_of=brats_case),
    "lits": CropSet(case_of=lits_case, split_of=lits_split, held_out="test"),
}  # fmt: skip
