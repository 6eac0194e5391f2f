"""Patients of a user's own images: by a table, by DICOM, by folder, or each image by itself."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from data.catalog.file_index import FileIndex
from data.catalog.joins import unique
from data.catalog.label_table import PATIENTS, OwnTable
from utils.notes import note

TABLE, FOLDER = "a table", "their folder"
# Images of a patient: folders with more on average may be those of classes or splits.
MANY = 20


def patients_of(
    names: Sequence[str], *, tables: Sequence[OwnTable], in_dicom: Callable[[Sequence[str]], Mapping[str, str]],
    root: Path, files: FileIndex,
) -> list[str]:  # fmt: skip
    """Return the patient ID of each image: by a table, else by DICOM, else the first folder, else the image's own name.

    Folders that hold all images are no patients. How many patients come from where is reported on stderr.

    Args:
        names: of the images.
        tables: those of the folder.
        in_dicom: names to the Patient ID of each that is DICOM and has one.
        root: the folder.
        files: all images in it.

    Raises:
        UserError: two tables name different patients of an image.
    """
    pairs = (pair for table in tables for pair in table.patients.items())
    known = unique(pairs, source=root, what="patients", counted=False)
    dicom_patients = in_dicom([name for name in names if name not in known])
    depth = _depth_of_patients(files)
    sources: dict[str, Callable[[str], str | None]] = {
        TABLE: known.get,
        "DICOM's Patient ID": dicom_patients.get,
        FOLDER: lambda name: _folder_at(name, depth),
        "each image by itself": str,
    }
    found = [next((source, patient) for source, of in sources.items() if (patient := of(name))) for name in names]
    _note_sources(root, found)
    # IDs of two sources may be the same by chance; those of a table are as people wrote them.
    return [patient if source == TABLE else f"{source}: {patient}" for source, patient in found]


def _note_sources(root: Path, found: Sequence[tuple[str, str]]) -> None:
    """Report how many patients, and images of them, come from each source."""
    patients: dict[str, list[str]] = {}
    for source, patient in found:
        patients.setdefault(source, []).append(patient)
    counts = [f"{len(set(ids))} by {source} ({len(ids)} images)" for source, ids in patients.items()]
    by_folder = patients.get(FOLDER, [])
    if len(by_folder) > MANY * len(set(by_folder)):
        counts.append(f"which are many for a patient: if folders are none, name patients in {PATIENTS}")
    note(f"{root}: {len(set(found))} patients: {', '.join(counts)}")


def _depth_of_patients(files: FileIndex) -> int:
    """How many folders, one in the other, hold all images: those below them may be patients."""
    return os.path.commonpath([f"root/{name}".rpartition("/")[0] for name in files.names]).count("/")


def _folder_at(name: str, depth: int) -> str | None:
    """Return the folder at a depth of an image's path; None where the image lies there itself."""
    folders = name.split("/")[:-1]
    return "/".join(folders[: depth + 1]) if len(folders) > depth else None
