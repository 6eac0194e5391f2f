"""The data sets of classification: images with labels, split by patient, and what the network is shown of them."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.chest import below_top, index_chest, index_chexpert, make_chest_lists, make_chexpert_list
from data.datasets import ImageFiles, RawDataset
from data.file_index import FileIndex
from data.labels import (
    Labels,
    as_array,
    chest_patient,
    chexpert_patient,
    read_chexpert_labels,
    read_listed_labels,
    split_by_patient,
)
from data.lists import cut_list, list_path, read_names
from data.loader import start_worker
from data.memory import stack
from data.names import NameList
from data.resized_crop import Cropper
from data.views2d import apply_spatial, draw_spatial, normalize
from utils.errors import UserError
from utils.records import LabelledImages

# RandomResizedCrop's own, which the published fine-tuning left as they are.
AREA = (0.08, 1.0)
# Evaluation resizes to 256 before it cuts 224 out of the centre.
MARGIN = 256 / 224


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


def central_square(pixels: Tensor, side: int) -> Tensor:
    """uint8 1 H W, shorter side resized to ``side`` · 256/224 (bilinear, antialias), to its centre, 1 side side."""
    shorter = round(side * MARGIN)
    height, width = pixels.shape[1:]
    scale = shorter / min(height, width)
    size = (
        (shorter, max(shorter, int(width * scale))) if height <= width else (max(shorter, int(height * scale)), shorter)
    )
    resized = F.interpolate(pixels.unsqueeze(0), size=size, mode="bilinear", antialias=True)[0]
    top, left = round((size[0] - side) / 2), round((size[1] - side) / 2)
    return resized[:, top : top + side, left : left + side]


class AugmentedInputs:
    """Raw batch to inputs: RandomResizedCrop, rotation U(±10°), flip, normalised; every image has its own draws.

    Args:
        size: side of an input in pixels.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, batch: LabelledImages, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Inputs, float32 B 3 S S, and labels, B K."""
        views = apply_spatial(Cropper(batch.pixels), draw_spatial(batch.sizes, AREA, generator), self.size)
        return normalize(views), batch.labels


def plain_inputs(batch: LabelledImages) -> tuple[Tensor, Tensor]:
    """Inputs, float32 B 3 S S, and labels, B K, of images that are cut to size already."""
    return normalize(batch.pixels[:, 0].float()), batch.labels


class _Readable(Dataset):
    """(index, sample or None, reason) for each of some indices."""

    def __init__(self, dataset: RawDataset, indices: range) -> None:
        self.dataset, self.indices = dataset, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> tuple[int, tuple[Tensor, ...] | None, str]:
        index = self.indices[place]
        try:
            return index, self.dataset[index], ""
        except (UserError, OSError) as error:
            return index, None, str(error)


class EverySample:
    """Batches of all samples once, in order, for evaluation; broken ones are left out, and named in ``bad``.

    Args:
        dataset: the samples.
        batch_size: of one process.
        workers: processes that read.
        rank, world_size: this process's place; it reads every ``world_size``-th sample.
        max_bad: share of samples that may be broken.
    """

    def __init__(
        self, dataset: RawDataset, *, batch_size: int, workers: int, rank: int = 0, world_size: int = 1,
        max_bad: float = 0.01,
    ) -> None:  # fmt: skip
        self.dataset, self.max_bad = dataset, max_bad
        self.bad: dict[str, str] = {}
        self.loader = DataLoader(
            _Readable(dataset, range(rank, len(dataset), world_size)), batch_size=batch_size, num_workers=workers,
            collate_fn=list, worker_init_fn=start_worker,
        )  # fmt: skip

    def __iter__(self) -> Iterator[tuple[list[int], Any]]:
        """(indices, batch).

        Raises:
            UserError: more than ``max_bad`` of the samples are broken.
        """
        for items in self.loader:
            self.bad.update({self.dataset.name(index): reason for index, sample, reason in items if sample is None})
            if len(self.bad) > self.max_bad * len(self.dataset):
                raise UserError(
                    f"--max_bad: {len(self.bad)} of {len(self.dataset)} samples to evaluate are broken, more than the "
                    f"share of {self.max_bad} allowed; mend or remove them, or give a larger --max_bad; the first: "
                    f"{next(iter(self.bad.values()))}"
                )
            good = [(index, sample) for index, sample, _ in items if sample is not None]
            if good:
                yield [index for index, _ in good], self.dataset.collate([sample for _, sample in good])


class LabelledParts(NamedTuple):
    """The data of one fine-tuning."""

    train: LabelledFiles
    valid: LabelledFiles
    test: LabelledFiles
    test_source: str
    """Where the test part comes from, in words."""


def open_labelled(
    *, name: str, root: str | Path, lists: str | Path, ratio: float, seed: int, size: int, uncertain: str = "ones",
    longest: int = 0,
) -> LabelledParts:  # fmt: skip
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
    _, rest = cut_list(below_top(read_names(training)), ratio)
    # A list that was made of a small data set may be empty.
    listed = testing.exists() and testing.stat().st_size > 0
    test = list(below_top(read_names(testing))) if listed else []
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
    return LabelledParts(files(parts.train, 0), files(parts.valid, size), files(parts.test, size), source)


def _files(
    index: FileIndex, names: list[str], labels: Labels, patient_of: Callable[[str], str], *, source: Path, longest: int,
    central: int,
) -> LabelledFiles:  # fmt: skip
    listed = NameList.of(names)
    images = ImageFiles(index.folders, listed, index.locate(listed, source=source), longest=longest)
    patients = [patient_of(name) for name in names]
    return LabelledFiles(images, as_array(labels, names, source=source), patients, central=central)
