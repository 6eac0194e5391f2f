"""Which patient an image shows."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from utils.notes import note

NIH_STEM = re.compile(r"(\d+)_\d+")


def chest_patient(name: str) -> str:
    """``00000013_005.png`` shows 00000013; a name of another pattern is a patient of its own."""
    stem = Path(name).stem
    match = NIH_STEM.fullmatch(stem)
    return match[1] if match else stem


def chexpert_patient(name: str) -> str:
    """``train/patient00001/study1/view1_frontal.jpg`` shows train/patient00001."""
    return "/".join(name.split("/")[:2])


def chexpert_patients(names: Sequence[str]) -> list[str]:
    """The patient ID of each image, see :func:`chexpert_patient`."""
    return [chexpert_patient(name) for name in names]


def chest_patients(names: Sequence[str], table: Mapping[str, str]) -> list[str]:
    """The patient of each image of NIH's pattern of names, or of a table.

    Args:
        names: of the images.
        table: image to patient; empty where nobody wrote one. An image that it lacks is of the patient that it gives
            another image of the same patient's number, else its name tells.
    """
    by_number = {chest_patient(name): patient for name, patient in table.items()}
    unknown = [name for name in names if name not in table and not NIH_STEM.fullmatch(Path(name).stem)]
    if unknown:
        note(
            f"{len(unknown)} of {len(names)} images have no patient, by a column Patient ID or a name such as "
            f"00000013_005.png: each counts as a patient of its own ({unknown[0]})"
        )
    return [table.get(name) or by_number.get(chest_patient(name)) or chest_patient(name) for name in names]
