"""BraTS on disk: its folders, modalities and regions."""

from pathlib import Path

from data.catalog.file_index import find, require_folder
from data.datasets.cases import Case, ReadSpec, Region
from data.datasets.layout import Layout, note_unread, require_complete
from utils.errors import UserError

GRADES = ("HGG", "LGG")
MODALITIES = ("t1", "t2", "flair", "t1ce")
# Whole tumour, tumour core and enhancing tumour, each within the one before. Label 2 is oedema, 1 necrotic or
# non-enhancing core, 4 enhancing tumour.
BRATS_REGIONS = (Region("WT", (1, 2, 4), 2), Region("TC", (1, 4), 1), Region("ET", (4,), 4))


def find_brats(root: str | Path) -> Layout:
    """Find ``HGG|LGG/ID/ID_{t1,t2,flair,t1ce,seg}.nii.gz`` (or ``.nii``), one case per patient.

    Raises:
        UserError: there are no such folders; files are missing (the message counts the patients and names five), or
            there are two of one name.
    """
    root = require_folder(root)
    folders = [f for grade in GRADES for f in find(root / grade) if f.is_dir()]
    if not folders:
        raise UserError(f"--data: expected BraTS in {root}: HGG/ID/ID_t1.nii.gz and LGG/..., found no such folder")
    note_unread(root, GRADES)
    cases, incomplete = [], []
    for folder in folders:
        files = {kind: _file_of(folder, kind) for kind in (*MODALITIES, "seg")}
        found = [file for file in files.values() if file is not None]
        if len(found) == len(files):
            cases.append(Case(folder.name, folder.name, tuple(found[:-1]), found[-1]))
        else:
            incomplete.append(f"{folder.name}: {', '.join(kind for kind, file in files.items() if file is None)}")
    require_complete(root, incomplete, len(folders), "patients")
    reading = ReadSpec(3, (0, 1, 2, 4))
    # GroupNorm and overlapping regions, as published.
    return Layout(cases, [], "", BRATS_REGIONS, reading, exclusive=False, channels=len(MODALITIES), norm="gn")


def _file_of(folder: Path, kind: str) -> Path | None:
    found = [file for end in (".nii.gz", ".nii") if (file := folder / f"{folder.name}_{kind}{end}").is_file()]
    if len(found) > 1:
        raise UserError(f"--data: expected one file of a name, got {found[0]} and {found[1]}")
    return found[0] if found else None
