"""Patient IDs of images."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from utils.notes import note

NIH_STEM = re.compile(r"(\d+)_\d+")


def chest_patient(name: str) -> str:
    """Return the patient ID in a name, 00000013 in ``00000013_005.png``; of other names the name without ending."""
    stem = Path(name).stem
    match = NIH_STEM.fullmatch(stem)
    return match[1] if match else stem


def chexpert_patient(name: str) -> str:
    """Return ``train/patient00001`` of ``train/patient00001/study1/view1_frontal.jpg``."""
    return "/".join(name.split("/")[:2])


def chexpert_patients(names: Sequence[str]) -> list[str]:
    """Return the patient ID of each image, see :func:`chexpert_patient`."""
    return [chexpert_patient(name) for name in names]


def chest_patients(names: Sequence[str], table: Mapping[str, str]) -> list[str]:
    """Return the patient ID of each image, from a table or from names of NIH's pattern.

    Args:
        names: of the images.
        table: image to patient ID; may be empty. An image without a row gets the ID of a row whose image has the same
            patient number in its name; without such a row, its own name decides.
    """
    by_number = {chest_patient(name): patient for name, patient in table.items()}
    unknown = [name for name in names if name not in table and not NIH_STEM.fullmatch(Path(name).stem)]
    if unknown:
        note(
            f"{len(unknown)} of {len(names)} images have no patient, by a column Patient ID or a name such as "
            f"00000013_005.png: each counts as a patient of its own ({unknown[0]})"
        )
    return [table.get(name) or by_number.get(chest_patient(name)) or chest_patient(name) for name in names]
