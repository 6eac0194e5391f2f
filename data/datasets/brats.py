"""BraTS on disk: the layouts of its years, modalities and regions."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data.catalog.file_index import require_folder
from data.catalog.folders import walk
from data.catalog.joins import first_names
from data.datasets.cases import Case, ReadSpec, Region
from data.datasets.layout import Layout, require_complete
from utils.errors import UserError
from utils.notes import note

MODALITIES = ("t1", "t2", "flair", "t1ce")
"""The channels, in the order that the network has them."""
ENDINGS = (".nii.gz", ".nii")
# The mask of this case of 2020 has another name than all others.
MISNAMED_MASKS = {"BraTS20_Training_355": "W39_1998.09.19_Segm"}
# Names of 2023 end in the time of the scan; several scans are of one patient.
TIME_POINT = re.compile(r"(BraTS-\w+-\d+)-\d{3}")


def brats_regions(enhancing: int) -> tuple[Region, ...]:
    """Return whole tumour, tumour core and enhancing tumour, each within the one before.

    Value 2 of a mask is oedema, 1 necrotic or non-enhancing core, and ``enhancing`` enhancing tumour.
    """
    return (
        Region("WT", (1, 2, enhancing), 2),
        Region("TC", (1, enhancing), 1),
        Region("ET", (enhancing,), enhancing),
    )


class Naming(NamedTuple):
    """What the files of some years are called: ``{case}{suffix}.nii.gz``, in a folder of the case's name."""

    years: str
    suffixes: tuple[str, ...]
    """Of MODALITIES."""
    mask: str
    """The suffix of masks."""
    enhancing: int
    """The value of enhancing tumour in them."""


NAMINGS = (
    Naming("2018 to 2021", ("_t1", "_t2", "_flair", "_t1ce"), "_seg", 4),
    Naming("2023", ("-t1n", "-t2w", "-t2f", "-t1c"), "-seg", 3),
)
BRATS_REGIONS = brats_regions(NAMINGS[0].enhancing)
BRATS_SUFFIXES = tuple(zip(*(naming.suffixes for naming in NAMINGS), strict=True))
"""By modality, the suffixes of its files in all years."""


class CaseFolder(NamedTuple):
    """A folder with files of a case."""

    path: Path
    naming: Naming
    images: tuple[Path | None, ...]
    """By modality; None where there is no file."""
    mask: Path | None

    @property
    def name(self) -> str:
        """The case's name."""
        return self.path.name


def find_brats(root: str | Path) -> Layout:
    """Find the cases of one of NAMINGS, in folders of any depth: ``HGG/ID/ID_t1.nii.gz``, ``ID/ID-t1n.nii.gz``.

    Where no case of a folder has a mask, as in that of the validation set, they are not used, which is reported on
    stderr.

    Raises:
        UserError: there are no such files; files are missing (the message counts the cases and names five), there are
            two of one name, or files of several namings, whose masks have other values.
    """
    root = require_folder(root)
    found = [folder for walked in walk(root) for folder in _case_folders(root / walked.path, walked.files)]
    naming = _only_naming(root, found)
    folders, unmasked = _split_unmasked(root, found)
    incomplete = [f"{folder.name}: {missing}" for folder in folders if (missing := _missing(folder))]
    require_complete(root, incomplete, len(folders), "patients")
    # GroupNorm and overlapping regions, as published.
    return Layout(
        [_case(folder) for folder in folders], [], "", brats_regions(naming.enhancing),
        ReadSpec(3, (0, 1, 2, naming.enhancing)), exclusive=False, channels=len(MODALITIES), norm="gn",
        suffixes=BRATS_SUFFIXES, unmasked=[folder.name for folder in unmasked],
    )  # fmt: skip


def _case_folders(path: Path, files: Sequence[str]) -> list[CaseFolder]:
    """Return the case whose files are in a folder, by each naming that they have."""
    found = []
    for naming in NAMINGS:
        *images, mask = (_file_of(path, files, path.name + suffix) for suffix in (*naming.suffixes, naming.mask))
        if mask is None and path.name in MISNAMED_MASKS:
            mask = _file_of(path, files, MISNAMED_MASKS[path.name])
        if any(images):
            found.append(CaseFolder(path, naming, tuple(images), mask))
    return found


def _file_of(folder: Path, files: Sequence[str], stem: str) -> Path | None:
    found = [folder / name for ending in ENDINGS if (name := stem + ending) in files]
    if len(found) > 1:
        raise UserError(f"--data: expected one file of a name, got {found[0]} and {found[1]}")
    return found[0] if found else None


def _only_naming(root: Path, folders: Sequence[CaseFolder]) -> Naming:
    if not folders:
        shown = " or ".join(f"ID/ID{naming.suffixes[0]}.nii.gz ({naming.years})" for naming in NAMINGS)
        raise UserError(f"--data: expected BraTS in {root}: {shown} and so on, in folders of any depth; found none")
    first = {folder.naming: folder.name for folder in reversed(folders)}
    if len(first) > 1:
        names = " and ".join(f"{first[naming]} of {naming.years}" for naming in NAMINGS)
        raise UserError(f"--data: expected BraTS of one kind in {root}, got {names}, whose masks have other values")
    return folders[0].naming


def _split_unmasked(root: Path, folders: Sequence[CaseFolder]) -> tuple[list[CaseFolder], list[CaseFolder]]:
    """Return the cases that are used, and those of folders in which none has a mask."""
    masked = {folder.path.parent for folder in folders if folder.mask}
    used, others = ([f for f in folders if (f.path.parent in masked) == kept] for kept in (True, False))
    if not used:
        raise UserError(f"--data: expected masks of BraTS in {root}, none of {len(folders)} patients has one")
    if others:
        note(f"{root}: {len(others)} of {len(folders)} patients are in folders without any mask: not used "
             f"({first_names([folder.name for folder in others])})")  # fmt: skip
    return used, others


def _missing(folder: CaseFolder) -> str:
    kinds = {**dict(zip(MODALITIES, folder.images, strict=True)), "seg": folder.mask}
    return ", ".join(kind for kind, file in kinds.items() if file is None)


def _case(folder: CaseFolder) -> Case:
    time_point = TIME_POINT.fullmatch(folder.name)
    patient = time_point[1] if time_point else folder.name
    return Case(folder.name, patient, tuple(file for file in folder.images if file), folder.mask)
