"""The data sets of segmentation: crops and whole cases of BraTS, LiTS and plain folders."""

from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.catalog.file_index import FileIndex, ListedFiles
from data.catalog.joins import Side, first_names, note_join
from data.catalog.list_folders import ListFolders, listed_side
from data.catalog.name_matching import match_list, read_skipped
from data.catalog.names import NameList
from data.catalog.splits import Listed, split_by_patient
from data.datasets.brats import find_brats
from data.datasets.case_cache import CaseCache
from data.datasets.case_crops import cut_crop, draw_start
from data.datasets.cases import Case, Prepared, read_case, scaled
from data.datasets.folder import MASKS, find_folder
from data.datasets.layout import Layout
from data.datasets.lits import find_lits
from data.datasets.nnunet import DESCRIPTION, find_nnunet, is_nnunet
from data.readers.masks import MOST_LABELS
from utils.errors import UsageError, UserError
from utils.fingerprint import fingerprint_of
from utils.notes import note
from utils.records import LabelledCrops, WholeCase
from utils.reused_memory import stack
from utils.seeding import numpy_generator, seed_of

CROPS = {"brats": (112, 128, 112), "lits": (128, 128, 64), "folder": (96, 96, 96)}
"""Voxels of a crop by data set; that of BraTS is published."""


class _Cases:
    """Cases of a data set, with the patient ID of each."""

    def __init__(self, cases: Sequence[Case], layout: Layout) -> None:
        self.cases, self.reading, self.regions = list(cases), layout.reading, layout.regions
        self.patients = [case.patient for case in cases]
        self.table = np.array(
            [[value in region.labels for value in range(MOST_LABELS)] for region in layout.regions], dtype=np.uint8
        )
        self.fingerprint = fingerprint_of(repr(([case.name for case in cases], layout.regions, tuple(layout.reading))))

    def __len__(self) -> int:
        return len(self.cases)

    def name(self, index: int) -> str:
        return self.cases[index].name

    def masks(self, labels: np.ndarray) -> Tensor:
        """Convert labels, uint8 *S, to masks of regions, uint8 K *S."""
        return torch.from_numpy(self.table[:, labels])


class CaseCrops(_Cases):
    """One random crop of each case per epoch: (image float32 C *crop, mask uint8 K *crop).

    Args:
        cases, layout: the cases.
        crop: voxels.
        seed: of the positions of crops, with the epoch and the case's name.
        cache: folder of prepared cases, None to read the case's files each time.
    """

    def __init__(
        self, cases: Sequence[Case], layout: Layout, *, crop: Sequence[int], seed: int, cache: str | None = None
    ) -> None:
        super().__init__(cases, layout)
        self.crop, self.seed = tuple(crop), seed
        self.cache = CaseCache(cache, layout.reading) if cache else None
        if self.cache is not None:
            self.cache.note_outdated(self.cases)

    def _prepared(self, case: Case) -> Prepared:
        return read_case(case, self.reading)[0] if self.cache is None else self.cache(case)

    def draw(self, epoch: int, index: int) -> tuple[Tensor, ...]:
        """Return the crop of a case in an epoch."""
        prepared = self._prepared(self.cases[index])
        rng = numpy_generator(self.seed, "crop", epoch, self.name(index))
        image, labels = cut_crop(prepared, draw_start(prepared.labels, self.crop, rng), self.crop)
        return torch.from_numpy(image), self.masks(labels)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return self.draw(0, index)

    def collate(self, samples: Sequence[tuple[Tensor, ...]]) -> LabelledCrops:
        """Stack crops."""
        return LabelledCrops(*(stack(field) for field in zip(*samples, strict=True)))


class WholeCases(_Cases):
    """Whole cases for evaluation, as the fields of a :class:`utils.records.WholeCase`."""

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        prepared, reference = read_case(self.cases[index], self.reading)
        image = torch.from_numpy(scaled(prepared.image, prepared.low, prepared.high))
        grid = (torch.tensor(x, dtype=torch.float64) for x in (reference.offset, reference.step, reference.spacing))
        return WholeCase(image, self.masks(prepared.labels), self.masks(reference.labels), *grid)

    def collate(self, samples: Sequence[tuple[Tensor, ...]]) -> WholeCase:
        """Return the one case of a batch; cases differ in size and cannot be stacked."""
        (case,) = samples
        return WholeCase(*case)


class SegmentationSplits(NamedTuple):
    """The data of one fine-tuning."""

    train: CaseCrops
    valid: WholeCases
    test: WholeCases
    test_source: str
    """Where the test split comes from, in words."""
    layout: Layout


def open_segmentation(
    *, name: str, root: str | Path, lists: ListFolders | None, ratio: float, seed: int, dim: int, crop: Sequence[int],
    classes: int = 0, hounsfield: bool | None = None, max_side: int = 0, cache: str | None = None,
    skip: str | None = None, max_bad: float = 0.01,
) -> SegmentationSplits:  # fmt: skip
    """Open the training, validation and test split: the rest of the training list after ``ratio``, and the test list.

    The lists are ``{name}_train.txt``, ``{name}_valid.txt`` and ``{name}_test.txt``, if they exist; plain folders may
    have their own ``test.txt``. Without a training list, it is all cases outside the other lists, in a seeded order.
    Other cases of patients in its first ``ratio`` are left out too.

    Args:
        name: ``'brats'``, ``'lits'`` or ``'folder'``.
        root: the data set's folder.
        lists: the folders of lists; None to use none.
        ratio: the share of the list that is left out because a network pre-trained on it.
        seed: of the order, of the splits and of the crops.
        dim, classes, max_side: as in :func:`find_folder`.
        hounsfield: whether the volumes of a folder are CT in HU; None: if its ``dataset.json`` says so.
        crop: voxels of a crop.
        cache: folder of prepared cases, None for none.
        skip: list of names of cases that are left out, None for none.
        max_bad: share of the listed cases that may be missing.

    Raises:
        UserError: there is no data, or other data than a list names, or too few patients.
    """
    finders: dict[str, Callable[[], Layout]] = {
        "brats": lambda: find_brats(root),
        "lits": lambda: find_lits(root),
        "folder": lambda: _find_own(root, dim, classes=classes, hounsfield=hounsfield, max_side=max_side),
    }
    layout = finders[name]()
    cases = _by_name(layout.cases)
    index = FileIndex([Path(root)], [NameList.of(cases)])
    listed = _read_lists(name, lists, index, layout) if lists else {}
    given = {split: list(found.found(max_bad=max_bad).names) for split, found in listed.items() if split != "train"}
    test, source = layout.test, layout.test_source
    if "test" in given:
        test, source = given["test"], f"{name}_test.txt"
    valid = given.get("valid", [])
    order = sorted({*cases} - {*test, *valid}, key=lambda case: (seed_of(seed, "list", case), case))
    training = listed.get("train") or index.join(NameList.of(order), source=root)
    first, remaining = training.cut(ratio)
    rest = list(remaining.without(set(layout.unmasked)).found(max_bad=max_bad).names)
    skipped = read_skipped(skip, index)
    used = ([name for name in names if name not in skipped] for names in (rest, valid, test))
    of_rest, of_valid, of_test = (Listed(names, [cases[n].patient for n in names]) for names in used)
    of_rest = _not_pretrained(of_rest, {cases[name].patient for name in first.names if name in cases})
    splits = split_by_patient(of_rest, valid=of_valid, test=of_test, seed=seed)
    train_cases, valid_cases, test_cases = ([cases[n] for n in split] for split in splits)
    return SegmentationSplits(
        CaseCrops(train_cases, layout, crop=crop, seed=seed, cache=cache), WholeCases(valid_cases, layout),
        WholeCases(test_cases, layout), source if test else "a fifth of the patients, held out", layout,
    )  # fmt: skip


def holds_masks(root: Path) -> bool:
    """Whether a user's folder has images with masks."""
    return (root / MASKS).is_dir() or is_nnunet(root)


def _find_own(
    root: str | Path, dim: int, *, classes: int, hounsfield: bool | None, max_side: int
) -> Layout:  # fmt: skip
    """Find the cases of a folder in nnU-Net's layout, or of one with ``images/`` and ``masks/``."""
    if not is_nnunet(root):
        return find_folder(root, dim, classes=classes, hounsfield=bool(hounsfield), max_side=max_side)
    if classes:
        raise UsageError(f"--classes: {Path(root) / DESCRIPTION} says what the masks hold; leave it out")
    return find_nnunet(root, dim, hounsfield=hounsfield, max_side=max_side)


def _not_pretrained(rest: Listed, patients: Set[str]) -> Listed:
    """Return the cases of patients that no network pre-trained on; the others are reported on stderr."""
    kept, shared = rest.without(patients)
    if shared:
        names = first_names(shared)
        note(f"--ratio: {len(shared)} cases are of patients in the share that pre-trains: left out ({names})")
    return kept


def _by_name(cases: Sequence[Case]) -> dict[str, Case]:
    found: dict[str, Case] = {}
    for case in cases:
        if (other := found.setdefault(case.name, case)) is not case:
            raise UserError(f"--data: expected each case once, {case.name} is {other.mask} and {case.mask}")
    return found


def _read_lists(name: str, lists: ListFolders, index: FileIndex, layout: Layout) -> dict[str, ListedFiles]:
    """Read the lists that exist; how they match the cases is reported on stderr."""

    def clean(names: NameList, source: Path) -> NameList:
        return match_list(names, index, source)

    read = {split: lists.read(name, split, index, clean) for split in ("test", "valid", "train")}
    listed = {split: found for split, found in read.items() if found is not None}
    for split, found in listed.items():
        sides = [listed_side(found)]
        if split == "train":
            left = [case for case in index.left_over(*listed.values()) if "test" in listed or case not in layout.test]
            sides.append(Side(len(index), "cases of --data", "in a list", "cases in no list", left))
        note_join(found.source, *sides)
    return listed
