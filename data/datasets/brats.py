"""BraTS as people have it on disk."""

from pathlib import Path

from data.catalog.file_index import find, require_folder
from data.datasets.cases import Case, ReadSpec, Region
from data.datasets.layout import Layout, require_complete
from utils.errors import UserError

GRADES = ("HGG", "LGG")
MODALITIES = ("t1", "t2", "flair", "t1ce")
# Whole tumour, tumour core and enhancing tumour, each within the one before; 2 is oedema, 1 the core that is necrotic
# or does not enhance.
BRATS_REGIONS = (Region("WT", (1, 2, 4), 2), Region("TC", (1, 4), 1), Region("ET", (4,), 4))


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
    require_complete(root, lacking, len(folders), "patients")
    reading = ReadSpec(3, (0, 1, 2, 4))
    # As published.
    return Layout(cases, [], "", BRATS_REGIONS, reading, exclusive=False, channels=len(MODALITIES), norm="gn")
