"""nnU-Net's layout on disk: ``imagesTr``, ``labelsTr`` and ``dataset.json``."""

import re
from collections.abc import Mapping
from pathlib import Path

from data.catalog.file_index import find, require_folder
from data.catalog.joins import Side, first_names, note_join
from data.datasets.case_tables import TEST, read_patients, read_test_names
from data.datasets.cases import Case, ReadSpec
from data.datasets.layout import Layout, note_unread, require_complete
from data.datasets.nnunet_json import Description, read_description
from data.readers.file_names import ending_of, stem_of
from data.readers.volumes import VOLUMES
from utils.errors import UserError
from utils.notes import note

DESCRIPTION, IMAGES, LABELS = "dataset.json", "imagesTr", "labelsTr"
CHANNEL = re.compile(r"(.+)_(\d{4})")
"""Case and channel in the name of an image."""
CT = "ct"
"""The name of a channel in HU, in any case."""

Images = dict[str, dict[int, Path]]
"""Files by case and channel."""


def is_nnunet(root: str | Path) -> bool:
    """Whether a folder is laid out as nnU-Net's data sets."""
    return (Path(root) / DESCRIPTION).is_file() and (Path(root) / IMAGES).is_dir()


def find_nnunet(root: str | Path, dim: int, *, hounsfield: bool | None = None, max_side: int = 0) -> Layout:
    """Find ``imagesTr/CASE_0000.nii.gz`` and so on, one a channel, and ``labelsTr/CASE.nii.gz``.

    ``imagesTs`` is not used, which is reported on stderr. ``patients.csv`` and ``test.txt`` beside are read as in other
    folders; without a table each case is a patient.

    Args:
        root: the data set's folder.
        dim: 2 for PNG, 3 for volumes.
        hounsfield: whether channels are CT in HU; None: if they are named so.
        max_side: as in :class:`data.datasets.cases.ReadSpec`.

    Raises:
        UserError: ``dataset.json`` cannot be read or does not describe these files, channels or masks are missing
            (the message counts the cases and names five), or a table cannot be read.
    """
    root = require_folder(root)
    description = read_description(root / DESCRIPTION)
    _require_readable(root / DESCRIPTION, description, dim)
    count = len(description.channels)
    images, masks = _find_images(root, description), _find_masks(root, description)
    lacking = {case: [f"_{i:04}" for i in range(count) if i not in images[case]] for case in images}
    missing = {case: channels + ["its mask"] * (case not in masks) for case, channels in lacking.items()}
    incomplete = [f"{case}: {', '.join(files)}" for case, files in missing.items() if files]
    require_complete(root, incomplete, len(images), "cases")
    _note_found(root, description, images, masks)
    patients = read_patients(root, images)
    cases = [Case(case, patients[case], tuple(images[case][i] for i in range(count)), masks[case]) for case in images]
    known = (0, *sorted({value for region in description.regions for value in region.labels}))
    ct = _is_ct(root / DESCRIPTION, description) if hounsfield is None and dim == 3 else bool(hounsfield)
    return Layout(
        cases, read_test_names(root, images), TEST, description.regions,
        ReadSpec(dim, known, hounsfield=ct, max_side=max_side), exclusive=description.exclusive, channels=count,
        suffixes=tuple((f"_{i:04}",) for i in range(count)),
    )  # fmt: skip


def _require_readable(path: Path, description: Description, dim: int) -> None:
    endings = (".png",) if dim == 2 else VOLUMES
    if description.ending not in endings:
        expected = f"with --d {dim} a file_ending of {', '.join(endings)}"
        raise UserError(f"{path}: expected {expected}, got {description.ending}")
    if dim == 2 and len(description.channels) > 1:
        raise UserError(f"{path}: expected with --d 2 one channel, a grey image, got {len(description.channels)}")


def _find_images(root: Path, description: Description) -> Images:
    found, others = Images(), list[str]()
    for path in find(root / IMAGES):
        match = CHANNEL.fullmatch(stem_of(path)) if ending_of(path) == description.ending else None
        if match is None:
            others.append(path.name)
        elif int(match[2]) >= len(description.channels):
            known = f"{len(description.channels)} channels in {DESCRIPTION}, numbered from 0000"
            raise UserError(f"--data: expected {known}, got {path}")
        else:
            found.setdefault(match[1], {})[int(match[2])] = path
    if not found:
        raise UserError(f"--data: expected CASE_0000{description.ending} in {root / IMAGES}, found none")
    if others:
        note(f"{root / IMAGES}: {len(others)} other files are left out ({first_names(others)})")
    return found


def _find_masks(root: Path, description: Description) -> dict[str, Path]:
    return {stem_of(path): path for path in find(root / LABELS) if ending_of(path) == description.ending}


def _note_found(root: Path, description: Description, images: Images, masks: Mapping[str, Path]) -> None:
    unused = [path.name for case, path in masks.items() if case not in images]
    note_join(
        root, Side(len(images), "cases", "with a mask", "without", []),
        Side(len(masks), "masks", "with images", "without: not used", unused),
    )  # fmt: skip
    note_unread(root, (IMAGES, LABELS))
    if description.cases not in (None, len(images)):
        note(f"{root / DESCRIPTION}: numTraining is {description.cases}, {len(images)} cases are in {IMAGES}")


def _is_ct(path: Path, description: Description) -> bool:
    """Return whether all channels are CT; a CT beside others is refused, since one resampling is for all channels."""
    found = [name.casefold() == CT for name in description.channels]
    if any(found) and not all(found):
        raise UserError(
            f"{path}: expected CT in all channels or in none, got {', '.join(description.channels)}; give --intensity "
            "minmax to scale each from its least to its largest value"
        )
    return any(found)
