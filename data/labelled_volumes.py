"""The data sets of volume classification: a user's own volumes with labels, split by patient."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.catalog.folder_volumes import FOLDER_VOLUMES, VolumeIndex
from data.catalog.list_folders import ListFolders
from data.catalog.xray_dataset import Selection
from data.catalog.xrays import ALL, find_xrays
from data.datasets.classification import split_labelled
from data.preprocess import Preprocessing, load_volume, pad_to, volume_windows
from data.readers.volumes import Source
from data.transforms.hounsfield import scale
from data.volume_cache import VolumeCache
from utils.fingerprint import fingerprint_of
from utils.records import LabelledWindows, VolumeWindows
from utils.reused_memory import stack
from utils.seeding import numpy_generator

WINDOWS = 4
"""Windows of a volume in a step of training."""


class Volumes(NamedTuple):
    """Labelled volumes."""

    names: list[str]
    sources: list[Source]
    labels: np.ndarray
    """float32, N K: 0 or 1, NaN where unlabelled."""
    patients: list[str]


class LabelledVolumes:
    """All windows of each volume, as predictions see it: (windows float32 N 1 X Y Z, labels float32 K).

    Args:
        volumes: the volumes.
        reading: how they are read, see :func:`data.preprocess.preprocess`.
        cache: of volumes; None to read and resample them each time.
    """

    def __init__(self, volumes: Volumes, reading: Preprocessing, cache: VolumeCache | None = None) -> None:
        self.volumes, self.reading, self.cache, self.patients = volumes, reading, cache, volumes.patients
        self.labels = torch.from_numpy(volumes.labels)
        self.fingerprint = fingerprint_of(repr((volumes.names, reading)), volumes.labels)

    def __len__(self) -> int:
        return len(self.volumes.names)

    def name(self, index: int) -> str:
        return self.volumes.names[index]

    def volume(self, index: int) -> np.ndarray:
        """Return a volume, int16 X Y Z, HU."""
        source = self.volumes.sources[index]
        return load_volume(source, self.reading) if self.cache is None else self.cache(self.name(index), source)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return volume_windows(self.volume(index), self.reading), self.labels[index]

    def collate(self, samples: Sequence[tuple[Tensor, ...]]) -> VolumeWindows:
        """Return all windows, one volume after the other, and how many each has."""
        windows, labels = zip(*samples, strict=True)
        return VolumeWindows(torch.cat(windows), torch.tensor([len(some) for some in windows]), stack(labels))


class RandomWindows(LabelledVolumes):
    """Windows at random places of each volume, others in each epoch: (windows float32 W X Y Z in 0..1, labels K).

    Args:
        volumes, reading, cache: as in :class:`LabelledVolumes`.
        seed: with epoch and index, determines the places.
    """

    def __init__(
        self, volumes: Volumes, reading: Preprocessing, cache: VolumeCache | None = None, *, seed: int
    ) -> None:  # fmt: skip
        super().__init__(volumes, reading, cache)
        self.seed = seed

    def draw(self, epoch: int, index: int) -> tuple[Tensor, ...]:
        """Return a sample of an epoch."""
        generator = numpy_generator(self.seed, "windows", epoch, index)
        return cut_random(self.volume(index), self.reading.window, WINDOWS, generator), self.labels[index]

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return self.draw(0, index)

    def collate(self, samples: Sequence[tuple[Tensor, ...]]) -> LabelledWindows:  # type: ignore[override]
        """Stack windows and labels."""
        return LabelledWindows(*(stack(field) for field in zip(*samples, strict=True)))


def cut_random(volume: np.ndarray, window: Sequence[int], count: int, generator: np.random.Generator) -> Tensor:
    """Cut windows at uniform places out of HU, X Y Z: float32 count *window in 0..1; padded with 0 where smaller."""
    room = [max(0, n - w) for n, w in zip(volume.shape, window, strict=True)]
    starts = generator.integers(0, np.array(room) + 1, (count, len(room)))
    boxes = [tuple(slice(s, s + w) for s, w in zip(start, window, strict=True)) for start in starts.tolist()]
    return torch.cat([pad_to(torch.from_numpy(scale(volume[box])).unsqueeze(0), window) for box in boxes])


class VolumeSplits(NamedTuple):
    """The data of one fine-tuning."""

    train: RandomWindows
    valid: LabelledVolumes
    test: LabelledVolumes
    test_source: str
    """Where the test split comes from, in words."""
    classes: tuple[str, ...]
    """The names of the labels, in their order."""

    def whole_train(self) -> LabelledVolumes:
        """Return the training split as evaluation sees it, which probes learn from."""
        return LabelledVolumes(self.train.volumes, self.train.reading, self.train.cache)


def open_labelled_volumes(
    *, root: str | Path, lists: ListFolders, ratio: float, seed: int, reading: Preprocessing,
    columns: Sequence[str] | None = None, skip: str | Path | None = None, max_bad: float = 0.01,
    cache: str | Path | None = None,
) -> VolumeSplits:  # fmt: skip
    """Open the volumes of a user's own folder by its ``labels.csv``, split as images are.

    Args:
        root: the folder.
        lists: the folders of lists; missing lists are made.
        ratio: the share of the list used for pre-training.
        seed: of the splits, of the order of a list that is made, and of the windows.
        reading: how volumes are read.
        columns: the columns of the table that are labels; None for all of 0, 1 and blank.
        skip: a list of names that are left out; None for none.
        max_bad: share of the listed volumes that may be missing.
        cache: folder of resampled volumes; None for none.

    Raises:
        UserError: as :func:`data.datasets.classification.split_labelled`.
    """
    files = find_xrays(
        name="folder", root=root, lists=lists, seed=seed, max_bad=max_bad, dataset=FOLDER_VOLUMES,
        selection=Selection(skip=skip) if skip else ALL,
    )  # fmt: skip
    found = split_labelled(files, ratio=ratio, columns=columns)
    assert isinstance(files.files, VolumeIndex)
    sources = files.files.sources

    def volumes(names: list[str]) -> Volumes:
        return Volumes(names, [sources[name] for name in names], found.labels_of(names), found.patients_of(names))

    train, valid, test = map(volumes, found.splits)
    kept = VolumeCache(cache, reading) if cache else None
    if kept is not None:
        kept.note_outdated({name: sources[name] for split in found.splits for name in split})
    return VolumeSplits(
        RandomWindows(train, reading, kept, seed=seed), LabelledVolumes(valid, reading, kept),
        LabelledVolumes(test, reading, kept), found.test_source, found.labels.classes,
    )  # fmt: skip
