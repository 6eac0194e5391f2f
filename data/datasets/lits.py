"""LiTS on disk: its folders, file names and regions."""

import re
from pathlib import Path

from data.catalog.file_index import find, require_folder
from data.catalog.joins import Side, note_join
from data.datasets.cases import Case, ReadSpec, Region
from data.datasets.layout import Layout, require_complete
from utils.errors import UserError

# Label 2 is tumour, which is part of the liver.
LITS_REGIONS = (Region("liver", (1, 2), 1),)
LITS_CT, LITS_MASK = re.compile(r"volume-?(\d+)\.nii(?:\.gz)?"), re.compile(r"segmentation-?(\d+)\.nii(?:\.gz)?")


def find_lits(root: str | Path) -> Layout:
    """Find ``train|test/CT/volumeN.nii.gz`` and ``seg/segmentationN.nii.gz`` (or ``volume-N``, or ``.nii``).

    Scans of ``test`` that have a mask are the test split.

    Raises:
        UserError: there are no such folders, or masks of ``train`` are missing; the message counts them and names five.
    """
    root = require_folder(root)
    cases: dict[str, list[Case]] = {}
    for split in ("train", "test"):
        scans, masks = _numbered(root / split / "CT", LITS_CT), _numbered(root / split / "seg", LITS_MASK)
        unmasked = [path.name for number, path in scans.items() if number not in masks]
        require_complete(root, [f"no mask of {name}" for name in unmasked if split == "train"], len(scans), "scans")
        if scans or masks:
            unused = [path.name for number, path in masks.items() if number not in scans]
            note_join(
                root / split, Side(len(scans), "scans", "with a mask", "without: not used", unmasked),
                Side(len(masks), "masks", "with a scan", "without", unused),
            )  # fmt: skip
        names = {number: f"{split}_volume{number}" for number in scans if number in masks}
        cases[split] = [Case(name, name, (scans[number],), masks[number]) for number, name in names.items()]
    if not cases["train"]:
        raise UserError(f"--data: expected LiTS in {root}: train/CT/volumeN.nii.gz, train/seg/segmentationN.nii.gz")
    test = [case.name for case in cases["test"]]
    reading = ReadSpec(3, (0, 1, 2), hounsfield=True)
    return Layout(cases["train"] + cases["test"], test, "the folder test", LITS_REGIONS, reading, exclusive=True)


def _numbered(folder: Path, pattern: re.Pattern[str]) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for path in find(folder):
        match = pattern.fullmatch(path.name)
        if match and (other := found.setdefault(int(match[1]), path)) is not path:
            raise UserError(f"--data: expected one file of a number, got {other} and {path}")
    return dict(sorted(found.items()))
