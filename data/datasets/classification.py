"""The data sets of classification: images with labels, split by patient, and what the network is shown of them."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.catalog.chest import index_chest, make_chest_lists
from data.catalog.chexpert import index_chexpert, make_chexpert_list, strip_root_folder
from data.catalog.file_index import FileIndex
from data.catalog.labels import (
    Labels,
    as_array,
    chest_patient,
    chexpert_patient,
    read_chexpert_labels,
    read_listed_labels,
)
from data.catalog.lists import cut_list, list_path, read_names
from data.catalog.names import NameList
from data.catalog.splits import split_by_patient
from data.datasets.images import ImageFiles
from data.transforms.central_crop import central_square
from utils.records import LabelledImages
from utils.reused_memory import stack


class LabelledFiles:
    """Images with labels: (pixels uint8 1 H W, labels float32 K).

    Args:
        images: the images.
        labels: N K.
        patients: N, whom each shows.
        central: side in pixels; each image is then resized so that its shorter side is 256/224 of it, and cut to its
            centre; 0 for whole images.
    """

    def __init__(self, images: ImageFiles, labels: np.ndarray, patients: Sequence[str], *, central: int = 0) -> None:
        self.images, self.labels, self.patients = images, torch.from_numpy(labels), list(patients)
        self.central = central
        digest = hashlib.blake2b(labels.tobytes(), digest_size=8).hexdigest()
        self.fingerprint = f"{images.fingerprint}-{digest}"

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return self.images.name(index)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        (pixels,) = self.images[index]
        return central_square(pixels, self.central) if self.central else pixels, self.labels[index]

    def collate(self, samples: Sequence[tuple[Tensor, ...]]) -> LabelledImages:
        """Images side by side, and their labels stacked."""
        pixels, sizes = self.images.collate([(pixels,) for pixels, _ in samples])
        return LabelledImages(pixels, sizes, stack([labels for _, labels in samples]))


class ClassificationSplits(NamedTuple):
    """The data of one fine-tuning."""

    train: LabelledFiles
    valid: LabelledFiles
    test: LabelledFiles
    test_source: str
    """Where the test part comes from, in words."""


def open_classification(
    *, name: str, root: str | Path, lists: str | Path, ratio: float, seed: int, size: int, uncertain: str = "ones",
    longest: int = 0,
) -> ClassificationSplits:  # fmt: skip
    """Training, validation and test part: the rest of the training list after ``ratio``, and the test list.

    Args:
        name: ``'chest'`` or ``'chexpert'``.
        root: the data set's folder.
        lists: the folder of the lists; those that are not there are made, as for pre-training.
        ratio: the share of the list that pre-trains.
        seed: of the splits, and of the order of a list that is made.
        size: side of an input in pixels.
        uncertain: CheXpert: ``'ones'``, ``'zeros'`` or ``'ignore'``.
        longest: longest side of an image in pixels, 0 for as it is.

    Raises:
        UserError: no data, not the data that a list names, no labels, or too few patients.
    """
    training, testing = (list_path(lists, name, part) for part in ("train", "test"))
    patient_of, index = (
        (chest_patient, index_chest(root)) if name == "chest" else (chexpert_patient, index_chexpert(root))
    )
    make = make_chest_lists if name == "chest" else make_chexpert_list
    if not training.exists():
        make(root, lists, index, seed=seed)
    _, rest = cut_list(strip_root_folder(read_names(training)), ratio)
    # A list that was made of a small data set may be empty.
    listed = testing.exists() and testing.stat().st_size > 0
    test = list(strip_root_folder(read_names(testing))) if listed else []
    names = list(rest)
    parts = split_by_patient(
        names, [patient_of(n) for n in names], test=test, test_patients=[patient_of(n) for n in test], seed=seed
    )
    labels: Labels
    if name == "chest":
        labels = read_listed_labels(training) | (read_listed_labels(testing) if listed else {})
    else:
        labels = read_chexpert_labels(root, uncertain=uncertain)

    def files(part: list[str], central: int) -> LabelledFiles:
        return _files(index, part, labels, patient_of, source=training, longest=longest, central=central)

    source = str(testing.name) if listed else "a fifth of the patients, held out"
    return ClassificationSplits(files(parts.train, 0), files(parts.valid, size), files(parts.test, size), source)


def _files(
    index: FileIndex, names: list[str], labels: Labels, patient_of: Callable[[str], str], *, source: Path, longest: int,
    central: int,
) -> LabelledFiles:  # fmt: skip
    listed = NameList.of(names)
    images = ImageFiles(index.folders, listed, index.locate(listed, source=source), longest=longest)
    patients = [patient_of(name) for name in names]
    return LabelledFiles(images, as_array(labels, names, source=source), patients, central=central)
