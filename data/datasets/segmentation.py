"""The data sets of segmentation: BraTS, LiTS and plain folders, as people have them on disk."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.catalog.lists import list_path, read_names
from data.catalog.names import NameList
from data.catalog.splits import split_by_patient
from data.datasets.brats import find_brats
from data.datasets.case_cache import CaseCache
from data.datasets.case_crops import cut_crop, draw_start
from data.datasets.cases import Case, Prepared, read_case, scaled
from data.datasets.folder import find_folder
from data.datasets.layout import Layout
from data.datasets.lits import find_lits
from data.readers.masks import MOST_LABELS
from utils.errors import UserError
from utils.records import LabelledCrops, WholeCase
from utils.reused_memory import stack
from utils.seeding import numpy_generator, seed_of

CROPS = {"brats": (112, 128, 112), "lits": (128, 128, 64), "folder": (96, 96, 96)}
"""Voxels of a crop; BraTS as published."""


class _Cases:
    """Some cases of a data set, and which patient each shows."""

    def __init__(self, cases: Sequence[Case], layout: Layout) -> None:
        self.cases, self.reading, self.regions = list(cases), layout.reading, layout.regions
        self.patients = [case.patient for case in cases]
        self.table = np.array(
            [[value in region.labels for value in range(MOST_LABELS)] for region in layout.regions], dtype=np.uint8
        )
        facts = repr(([case.name for case in cases], layout.regions, tuple(layout.reading)))
        self.fingerprint = hashlib.blake2b(facts.encode(), digest_size=8).hexdigest()

    def __len__(self) -> int:
        return len(self.cases)

    def name(self, index: int) -> str:
        return self.cases[index].name

    def masks(self, labels: np.ndarray) -> Tensor:
        """uint8 *S of labels to uint8 K *S of regions."""
        return torch.from_numpy(self.table[:, labels])


class CaseCrops(_Cases):
    """One random crop of every case an epoch: (image float32 C *crop, mask uint8 K *crop).

    Args:
        cases, layout: the cases.
        crop: voxels.
        seed: of where crops lie, beside epoch and index.
        cache: folder of prepared cases, None to read every case anew.
    """

    def __init__(
        self, cases: Sequence[Case], layout: Layout, *, crop: Sequence[int], seed: int, cache: str | None = None
    ) -> None:
        super().__init__(cases, layout)
        self.crop, self.seed = tuple(crop), seed
        self.cache = CaseCache(cache, layout.reading) if cache else None

    def _prepared(self, case: Case) -> Prepared:
        return read_case(case, self.reading)[0] if self.cache is None else self.cache(case)

    def draw(self, epoch: int, index: int) -> tuple[Tensor, ...]:
        """The crop of a case that an epoch sees."""
        prepared = self._prepared(self.cases[index])
        rng = numpy_generator(self.seed, "crop", epoch, self.name(index))
        image, labels = cut_crop(prepared, draw_start(prepared.labels, self.crop, rng), self.crop)
        return torch.from_numpy(image), self.masks(labels)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return self.draw(0, index)

    def collate(self, samples: Sequence[tuple[Tensor, ...]]) -> LabelledCrops:
        """Crops stacked."""
        return LabelledCrops(*(stack(field) for field in zip(*samples, strict=True)))


class WholeCases(_Cases):
    """Whole cases, for evaluation: the fields of a :class:`utils.records.WholeCase`."""

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        prepared, truth = read_case(self.cases[index], self.reading)
        image = torch.from_numpy(scaled(prepared.image, prepared.low, prepared.high))
        grid = (torch.tensor(x, dtype=torch.float64) for x in (truth.offset, truth.step, truth.spacing))
        return WholeCase(image, self.masks(prepared.labels), self.masks(truth.labels), *grid)

    def collate(self, samples: Sequence[tuple[Tensor, ...]]) -> WholeCase:
        """The one case of a batch; cases differ in size."""
        (case,) = samples
        return WholeCase(*case)


class SegmentationSplits(NamedTuple):
    """The data of one fine-tuning."""

    train: CaseCrops
    valid: WholeCases
    test: WholeCases
    test_source: str
    """Where the test part comes from, in words."""
    layout: Layout


def open_segmentation(
    *, name: str, root: str | Path, lists: str | Path, ratio: float, seed: int, dim: int, crop: Sequence[int],
    classes: int = 0, hounsfield: bool = False, longest: int = 0, cache: str | None = None,
) -> SegmentationSplits:  # fmt: skip
    """Training, validation and test part: the rest of the training list after ``ratio``, and the test list.

    The lists are ``{name}_train.txt`` and ``{name}_test.txt`` of ``lists`` where these are there (not for plain
    folders, which have their own ``test.txt``). Without the first, all cases that test nothing are in a seeded order.

    Args:
        name: ``'brats'``, ``'lits'`` or ``'folder'``.
        root: the data set's folder.
        lists: the folder of the lists.
        ratio: the share of the list that is left out, as for what pre-trained on it.
        seed: of the order, of the splits and of the crops.
        dim, classes, hounsfield, longest: as in :func:`find_folder`.
        crop: voxels of a crop.
        cache: folder of prepared cases, None for none.

    Raises:
        UserError: no data, not the data that a list names, or too few patients.
    """
    finders: dict[str, Callable[[], Layout]] = {
        "brats": lambda: find_brats(root),
        "lits": lambda: find_lits(root),
        "folder": lambda: find_folder(root, dim, classes=classes, hounsfield=hounsfield, longest=longest),
    }
    layout = finders[name]()
    cases = {case.name: case for case in layout.cases}
    test, source = list(layout.test), layout.test_source
    if name != "folder" and (listed := _listed(list_path(lists, name, "test"), cases)):
        test, source = listed, f"{name}_test.txt"
    training = _listed(list_path(lists, name, "train"), cases) if name != "folder" else []
    if not training:
        training = sorted(set(cases) - set(test), key=lambda n: (seed_of(seed, "list", n), n))
    rest = training[int(ratio * len(training)) :]
    parts = split_by_patient(
        rest, [cases[n].patient for n in rest], test=test, test_patients=[cases[n].patient for n in test], seed=seed
    )
    train, valid, testing = ([cases[n] for n in part] for part in parts)
    return SegmentationSplits(
        CaseCrops(train, layout, crop=crop, seed=seed, cache=cache), WholeCases(valid, layout),
        WholeCases(testing, layout), source if test else "a fifth of the patients, held out", layout,
    )  # fmt: skip


def _listed(path: Path, cases: dict[str, Case]) -> list[str]:
    if not path.exists():
        return []
    names: NameList = read_names(path)
    unknown = [name for name in names if name not in cases]
    if unknown:
        raise UserError(f"{path}: {len(unknown)} of its {len(names)} names are no cases in --data ({unknown[0]})")
    return list(names)
