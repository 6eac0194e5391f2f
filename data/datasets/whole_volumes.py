"""Whole volumes that ``luna_preprocess.py --volumes`` kept, of which pre-training draws new crops in each epoch."""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from data.catalog.crop_manifest import VOLUME_ENDING, read_record, record_path
from data.catalog.crop_sets import CropSet
from data.catalog.file_index import require_folder
from data.catalog.folders import walk
from data.catalog.lists import fingerprint
from data.catalog.names import NameList
from data.catalog.scans import list_name
from data.datasets.luna import GLOBAL, no_crops
from data.readers.arrays import read_array
from utils.errors import UserError


class VolumeFile(NamedTuple):
    """A whole volume."""

    scan: str
    """The name in lists of the scan, or of the case with several."""
    name: str
    path: Path


def holds_volumes(root: Path) -> bool:
    """Whether a folder holds whole volumes.

    Raises:
        UserError: it holds crops too.
    """
    files = [(folder.path, name) for folder in walk(root) for name in folder.files]
    volume = next((str(PurePosixPath(*file)) for file in files if file[1].endswith(VOLUME_ENDING)), None)
    crop = next((str(PurePosixPath(*file)) for file in files if GLOBAL.fullmatch(file[1])), None)
    if volume and crop:
        raise UserError(f"--data: expected crops or whole volumes, {root} holds both ({crop}, {volume}); give one")
    return volume is not None


def find_volume_files(root: Path, split: str, crop_set: CropSet) -> list[VolumeFile]:
    """Find all whole volumes of a split.

    Raises:
        UserError: there is no such folder, or no volumes of the split in it.
    """
    root = require_folder(root)
    found = list(_volumes_in(root, split, crop_set))
    if not found:
        raise no_crops(root, split, crop_set)
    return found


def _volumes_in(root: Path, split: str, crop_set: CropSet) -> Iterator[VolumeFile]:
    for folder in walk(root):
        if crop_set.split_of(folder.path) == split:
            for name in folder.files:
                if scan := name.removesuffix(VOLUME_ENDING) if name.endswith(VOLUME_ENDING) else "":
                    case = crop_set.case_of(list_name(folder.path, scan))
                    yield VolumeFile(case, str(PurePosixPath(folder.path, scan)), root / folder.path / name)


class WholeVolumes:
    """Whole volumes and the settings of their crops; :class:`data.fresh_crops.FreshCrops` makes samples of them.

    Args:
        volumes: the files.
        names: the cases that they are of, as listed.
    """

    def __init__(self, volumes: Sequence[VolumeFile], names: NameList) -> None:
        self.volumes = list(volumes)
        self.fingerprint = fingerprint(names)

    def __len__(self) -> int:
        return len(self.volumes)

    def record(self, index: int) -> dict[str, Any]:
        """Return the record that luna_preprocess.py wrote beside a volume.

        Raises:
            UserError: there is none.
        """
        path = self.volumes[index].path
        record = read_record(record_path(path.parent, path.name.removesuffix(VOLUME_ENDING)))
        if record is None or not record["settings"].get("volumes"):
            raise UserError(f"{path}: expected a record beside it, found none; run luna_preprocess.py --volumes again")
        return record

    def __getitem__(self, index: int) -> np.ndarray:
        """Return a volume, int16 X Y Z, mapped into memory.

        Raises:
            UserError: its file is missing, cut short or something else.
        """
        path = self.volumes[index].path
        volume = read_array(path, what="a volume", mapped=True)
        if volume.dtype != np.int16 or volume.ndim != 3:
            raise UserError(f"{path}: expected int16 voxels with 3 dimensions, got {volume.dtype} {volume.shape}")
        return volume
