"""The data sets of image classification: images with labels, split by patient."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.catalog.file_index import ListedFiles
from data.catalog.joins import Side, first_names, note_join
from data.catalog.labels import Labels, as_array
from data.catalog.list_folders import ListFolders
from data.catalog.names import NameList
from data.catalog.splits import Listed, Splits, split_by_patient
from data.catalog.xray_dataset import LabelTable, Selection
from data.catalog.xrays import ALL, Xrays, find_xrays
from data.datasets.images import AS_THEY_ARE, ImageFiles
from data.readers.images import ImageSpec
from data.transforms.central_crop import central_square
from utils.errors import UserError
from utils.fingerprint import fingerprint_of
from utils.records import LabelledImages
from utils.reused_memory import stack


class LabelledFiles:
    """Images with labels: (pixels uint8 1 H W, labels float32 K).

    Args:
        images: the images.
        labels: N K.
        patients: N, patient ID of each.
        central: side in pixels of a central crop, after resizing the shorter side to 256/224 of it; 0 for whole
            images.
    """

    def __init__(self, images: ImageFiles, labels: np.ndarray, patients: Sequence[str], *, central: int = 0) -> None:
        self.images, self.labels, self.patients = images, torch.from_numpy(labels), list(patients)
        self.central = central
        self.fingerprint = f"{images.fingerprint}-{fingerprint_of(labels)}"

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return self.images.name(index)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        (pixels,) = self.images[index]
        return central_square(pixels, self.central) if self.central else pixels, self.labels[index]

    def collate(self, samples: Sequence[tuple[Tensor, ...]]) -> LabelledImages:
        """Stack images, padded as in :class:`ImageFiles`, and their labels."""
        pixels, sizes = self.images.collate([(pixels,) for pixels, _ in samples])
        return LabelledImages(pixels, sizes, stack([labels for _, labels in samples]))


class LabelledNames(NamedTuple):
    """The names of the samples of each split, and their labels."""

    xrays: Xrays
    splits: Splits
    labels: LabelTable
    patients: Mapping[str, str]
    test_source: str
    """Where the test split comes from, in words."""

    def labels_of(self, names: Sequence[str]) -> np.ndarray:
        """Return the labels of samples, float32 N K."""
        return as_array(self.labels.labels, names)

    def patients_of(self, names: Sequence[str]) -> list[str]:
        """Return the patient ID of each sample."""
        return [self.patients[name] for name in names]


class ClassificationSplits(NamedTuple):
    """The data of one fine-tuning."""

    train: LabelledFiles
    valid: LabelledFiles
    test: LabelledFiles
    test_source: str
    """Where the test split comes from, in words."""
    classes: tuple[str, ...]
    """The names of the labels, in their order."""


def open_classification(
    *, name: str, root: str | Path, lists: ListFolders, ratio: float, seed: int, size: int, uncertain: str = "ones",
    columns: Sequence[str] | None = None, spec: ImageSpec = AS_THEY_ARE, selection: Selection = ALL,
    max_bad: float = 0.01,
) -> ClassificationSplits:  # fmt: skip
    """Open the splits of images, see :func:`split_labelled`.

    Args:
        name: a key of :data:`data.catalog.xrays.XRAYS`.
        root: the data set's folder.
        lists: the folders of lists; missing lists are made, as for pre-training.
        ratio: the share of the list used for pre-training.
        seed: of the splits, and of the order of a list that is made.
        size: side of an input in pixels.
        uncertain: CheXpert: ``'ones'``, ``'zeros'`` or ``'ignore'``.
        columns: a user's own folder: the columns of its table that are labels; None for all of 0, 1 and blank.
        spec: how images are read.
        selection: which images are used.
        max_bad: share of the listed images that may be missing.

    Raises:
        UserError: there is no data, or other data than a list names; there are no labels, or too few patients.
    """
    xrays = find_xrays(name=name, root=root, lists=lists, seed=seed, max_bad=max_bad, selection=selection)
    found = split_labelled(xrays, ratio=ratio, uncertain=uncertain, columns=columns)

    def files(split: list[str], central: int) -> LabelledFiles:
        listed = xrays.files.join(NameList.of(split), source=root)
        images = ImageFiles(xrays.files.folders, listed.names, listed.folder_of, spec=spec)
        return LabelledFiles(images, found.labels_of(split), found.patients_of(split), central=central)

    train, valid, test = found.splits
    return ClassificationSplits(
        files(train, 0), files(valid, size), files(test, size), found.test_source, found.labels.classes
    )


def split_labelled(
    xrays: Xrays, *, ratio: float, uncertain: str = "ones", columns: Sequence[str] | None = None
) -> LabelledNames:
    """Split labelled samples: the rest of the training list after ``ratio``, and the lists of validation and test.

    Where there is no validation or test list, patients are held out. Listed samples without labels are left out and
    counted on stderr.

    Args:
        xrays: the images, or volumes.
        ratio, uncertain, columns: see :func:`open_classification`.

    Raises:
        UserError: there are no labels, too few patients, or other data than a list names.
    """
    _, rest = xrays.open_list("train").cut(ratio)
    lists_of = {"train": rest, "valid": xrays.find_list("valid"), "test": xrays.find_list("test")}
    sources = [Path(listed.source) for listed in lists_of.values() if listed is not None]
    table = xrays.read_labels(sources, uncertain=uncertain, columns=columns)
    names = {
        split: [] if listed is None else _labelled(xrays.used(listed), table.labels, xrays.max_bad)
        for split, listed in lists_of.items()
    }
    all_names = list(dict.fromkeys(itertools.chain.from_iterable(names.values())))
    patients = dict(zip(all_names, table.patients_of(all_names), strict=True))
    train, valid, test = (Listed(names[split], [patients[n] for n in names[split]]) for split in lists_of)
    splits = split_by_patient(train, valid=valid, test=test, seed=xrays.seed)
    test_list = lists_of["test"]
    source = Path(test_list.source).name if test_list else "a fifth of the patients, held out"
    return LabelledNames(xrays, splits, table, patients, source)


def _labelled(listed: ListedFiles, labels: Labels, max_bad: float) -> list[str]:
    """Return the listed images that have a file and labels."""
    names = list(listed.found(max_bad=max_bad).names)
    without = [name for name in names if name not in labels]
    if without and len(without) == len(names):
        raise UserError(f"{listed.source}: {len(names)} of {len(names)} images have no labels ({first_names(names)})")
    if without:
        note_join(listed.source, Side(len(names), "images", "with labels", "without: left out", without))
    return [name for name in names if name in labels]
