"""The data sets of segmentation: BraTS, LiTS and plain folders, as people have them on disk."""

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.cases import (
    IMAGES,
    MOST_LABELS,
    VOLUMES,
    Case,
    CaseCache,
    Prepared,
    Reading,
    Region,
    cut_crop,
    draw_start,
    ending_of,
    mask_values,
    read_case,
    scaled,
    stem_of,
)
from data.file_index import find, require_folder
from data.labels import split_by_patient
from data.lists import list_path, read_names
from data.memory import stack
from data.names import NameList
from data.tables import read_table
from data.views2d import normalize
from utils.errors import UserError
from utils.records import LabelledCrops, WholeCase
from utils.seeding import numpy_generator, seed_of

GRADES = ("HGG", "LGG")
MODALITIES = ("t1", "t2", "flair", "t1ce")
# Whole tumour, tumour core and enhancing tumour, each within the one before; 2 is oedema, 1 the core that is necrotic
# or does not enhance.
BRATS_REGIONS = (Region("WT", (1, 2, 4), 2), Region("TC", (1, 4), 1), Region("ET", (4,), 4))
# 2 is tumour, which lies in the liver.
LITS_REGIONS = (Region("liver", (1, 2), 1),)
LITS_CT, LITS_MASK = re.compile(r"volume-?(\d+)\.nii(?:\.gz)?"), re.compile(r"segmentation-?(\d+)\.nii(?:\.gz)?")
# More values than this, and a mask is likelier a photograph.
MOST_CLASSES = 32
CROPS = {"brats": (112, 128, 112), "lits": (128, 128, 64), "folder": (96, 96, 96)}
"""Voxels of a crop; BraTS as published."""


class Layout(NamedTuple):
    """What lies in the folder of a data set."""

    cases: list[Case]
    """By name."""
    test: list[str]
    """Names of those that the data set itself sets aside for testing; none where it does not."""
    test_source: str
    regions: tuple[Region, ...]
    reading: Reading
    exclusive: bool
    """Whether a voxel is of one region at most."""
    channels: int = 1
    norm: str = "bn"
    """The network's normalisation, see :func:`models.segmentation.build_segmenter`."""


def _complain(root: Path, lacking: Sequence[str], of: int, what: str) -> None:
    if lacking:
        raise UserError(f"--data: {len(lacking)} of {of} {what} in {root} lack files ({lacking[0]})")


def find_brats(root: str | Path) -> Layout:
    """``HGG|LGG/ID/ID_{t1,t2,flair,t1ce,seg}.nii.gz`` (or ``.nii``); a patient is a case.

    Raises:
        UserError: no such folders, or files are missing; says how many, and the first.
    """
    root = require_folder(root)
    folders = [f for grade in GRADES for f in find(root / grade) if f.is_dir()]
    if not folders:
        raise UserError(f"--data: expected BraTS in {root}: HGG/ID/ID_t1.nii.gz and LGG/..., found no such folder")
    cases, lacking = [], []
    for folder in folders:
        stems = [f"{folder.name}_{kind}" for kind in (*MODALITIES, "seg")]
        files = [next((f for e in (".nii.gz", ".nii") if (f := folder / (s + e)).is_file()), None) for s in stems]
        lacking += [f"{folder / stem}.nii.gz" for stem, file in zip(stems, files, strict=True) if file is None][:1]
        found = tuple(file for file in files if file is not None)
        if len(found) == len(stems):
            cases.append(Case(folder.name, folder.name, found[:-1], found[-1]))
    _complain(root, lacking, len(folders), "patients")
    reading = Reading(3, (0, 1, 2, 4))
    # As published.
    return Layout(cases, [], "", BRATS_REGIONS, reading, exclusive=False, channels=len(MODALITIES), norm="gn")


def find_lits(root: str | Path) -> Layout:
    """``train|test/CT/volumeN.nii.gz`` and ``seg/segmentationN.nii.gz`` (``volume-N`` and ``.nii`` too).

    Scans of ``test`` that have a mask are the test part.

    Raises:
        UserError: no such folders, or masks of ``train`` are missing; says how many, and the first.
    """
    root = require_folder(root)
    cases: dict[str, list[Case]] = {}
    for part in ("train", "test"):
        scans, masks = _numbered(root / part / "CT", LITS_CT), _numbered(root / part / "seg", LITS_MASK)
        lacking = [str(path) for number, path in scans.items() if number not in masks] if part == "train" else []
        _complain(root, [f"no mask of {path}" for path in lacking], len(scans), "scans")
        names = {number: f"{part}_volume{number}" for number in scans if number in masks}
        cases[part] = [Case(name, name, (scans[number],), masks[number]) for number, name in names.items()]
    if not cases["train"]:
        raise UserError(f"--data: expected LiTS in {root}: train/CT/volumeN.nii.gz, train/seg/segmentationN.nii.gz")
    test = [case.name for case in cases["test"]]
    reading = Reading(3, (0, 1, 2), hounsfield=True)
    return Layout(cases["train"] + cases["test"], test, "the folder test", LITS_REGIONS, reading, exclusive=True)


def _numbered(folder: Path, pattern: re.Pattern[str]) -> dict[int, Path]:
    return dict(sorted((int(match[1]), path) for path in find(folder) if (match := pattern.fullmatch(path.name))))


def find_folder(root: str | Path, dim: int, *, classes: int = 0, hounsfield: bool = False, longest: int = 0) -> Layout:
    """``images/*`` and ``masks/*`` of the same name but for the ending, ``patients.csv`` and ``test.txt`` if there.

    Args:
        root: the data set's folder.
        dim: 2 for PNG or JPEG images with PNG masks, 3 for ``.nii``, ``.nii.gz``, ``.mhd``, ``.mha`` or ``.npy``.
        classes: the values of masks are 0 to this; with 1 any value above 0 is the one class; 0: those found in them.
        hounsfield, longest: as in :class:`data.cases.Reading`.

    Raises:
        UserError: no images, an image without a mask, or two of one name; a table that is no table; no classes.
    """
    root = require_folder(root)
    images = _by_stem(root / "images", IMAGES if dim == 2 else VOLUMES)
    masks = _by_stem(root / "masks", (".png",) if dim == 2 else VOLUMES)
    _complain(root, [f"no mask of {path}" for stem, path in images.items() if stem not in masks], len(images), "images")
    patients = _read_patients(root / "patients.csv", images)
    cases = [Case(stem, patients.get(stem, stem), (path,), masks[stem]) for stem, path in images.items()]
    regions = _regions(root, [case.mask for case in cases], dim, classes)
    known = (0, *sorted({label for region in regions for label in region.labels}))
    listed = root / "test.txt"
    test = [_known_stem(name, images, listed) for name in read_names(listed)] if listed.exists() else []
    reading = Reading(dim, known, hounsfield=hounsfield, longest=longest)
    return Layout(cases, test, "test.txt", regions, reading, exclusive=True)


def _by_stem(folder: Path, endings: Iterable[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in find(folder):
        if ending_of(path) in endings:
            if stem_of(path) in found:
                raise UserError(f"--data: expected one file of a name, got {found[stem_of(path)]} and {path}")
            found[stem_of(path)] = path
    if not found:
        raise UserError(f"--data: expected files of {', '.join(endings)} in {folder}, found none")
    return found


def _known_stem(name: str, images: dict[str, Path], source: Path) -> str:
    """A name with or without its ending."""
    for stem in (name, stem_of(Path(name))):
        if stem in images:
            return stem
    raise UserError(f"{source}: expected names of images, there is no {name!r}")


def _read_patients(path: Path, images: dict[str, Path]) -> dict[str, str]:
    """Stem to patient; those that the table leaves out are patients of their own."""
    if not path.exists():
        return {}
    rows = read_table(path, ("name", "patient"))
    return {_known_stem(row["name"], images, path): row["patient"] for row in rows}


def _regions(root: Path, masks: Sequence[Path], dim: int, classes: int) -> tuple[Region, ...]:
    if classes == 1:
        return (Region("foreground", tuple(range(1, MOST_LABELS)), 1),)
    values = list(range(1, classes + 1)) if classes else mask_values(masks, dim)
    if not values:
        raise UserError(f"--data: expected masks with values above 0 in {root / 'masks'}, all are 0; or give --classes")
    if len(values) > MOST_CLASSES and not classes:
        raise UserError(
            f"--data: expected up to {MOST_CLASSES} values in the masks of {root / 'masks'}, found {len(values)}; are "
            "these masks? If so, give their number as --classes"
        )
    if len(values) == 1:
        return (Region("foreground", (values[0],), values[0]),)
    return tuple(Region(f"class_{value}", (value,), value) for value in values)


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


class SegmentationParts(NamedTuple):
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
) -> SegmentationParts:  # fmt: skip
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
    return SegmentationParts(
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


class FlippedCrops:
    """A batch of crops to inputs: each flipped with p ½ along each of some axes, every sample with its own draws.

    Args:
        dim: 3 flips along every axis, as published for BraTS; 2 along the last one alone, left and right.
    """

    def __init__(self, dim: int) -> None:
        self.axes = (2, 3, 4) if dim == 3 else (3,)
        self.to_input = as_input(dim)

    def __call__(self, batch: LabelledCrops, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Inputs, float32 B C *S, and masks, uint8 B K *S."""
        images, masks = batch.images, batch.masks
        for axis in self.axes:
            flip = torch.rand(len(images), generator=generator, device=generator.device) < 0.5
            flip = flip.view(-1, *[1] * (images.ndim - 1))
            images, masks = (torch.where(flip, x.flip(axis), x) for x in (images, masks))
        return self.to_input(images), masks


def as_input(dim: int) -> Callable[[Tensor], Tensor]:
    """Images of 0..1, B C *S, to what the encoder knows: in 2D B 3 H W, normalised as for pre-training."""
    return _normalized_grey if dim == 2 else _as_it_is


def _normalized_grey(images: Tensor) -> Tensor:
    return normalize(images[:, 0] * 255)


def _as_it_is(images: Tensor) -> Tensor:
    return images
