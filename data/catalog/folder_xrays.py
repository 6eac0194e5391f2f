"""A user's own X-rays: images in any folders below one, and tables of their patients and labels if there are any."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from data.catalog.dicom_attributes import read_attributes
from data.catalog.file_index import FileIndex, require_folder
from data.catalog.folders import walk
from data.catalog.joins import Side, first_names, note_join, unique
from data.catalog.label_table import LABELS, PATIENTS, OwnTable, read_own_table
from data.catalog.lists import list_path, read_names, seeded_order, write_list_once
from data.catalog.name_matching import listed_name, match_list
from data.catalog.names import NameList
from data.catalog.xray_dataset import LabelRequest, LabelTable, ListRequest
from data.readers.dicom_tags import PATIENT_ID, VIEW, is_dicom
from data.readers.file_names import ending_of
from data.readers.images import IMAGES
from utils.errors import UserError
from utils.notes import note

TEST, MASKS, RUN = "test.txt", "masks", "run.json"
# A directory of DICOM files, itself in DICOM.
DICOM_DIRECTORY = "DICOMDIR"
# Images of a patient: folders with more on average may be those of classes or splits.
MANY = 20
# Files are opened by several threads, since each may wait for a network file system.
THREADS = 16


def index_folder(root: Path) -> FileIndex:
    """Return the images below a folder, named by their path relative to it.

    Images are files with one of IMAGES as their ending, and others that begin as DICOM does. Masks, which are in
    ``masks/``, and the folders of runs of this program are left out, which is reported on stderr.

    Raises:
        UserError: no such folder, or no images in it.
    """
    root = require_folder(root)
    names, others, closed = list[str](), list[str](), list[str]()
    for folder in walk(root):
        if any(folder.path.startswith(f"{path}/") for path in closed):
            continue
        if folder.path == MASKS or RUN in folder.files:
            closed.append(folder.path)
            continue
        for name in folder.files:
            kind = names if ending_of(Path(name)) in IMAGES else others
            kind.append(f"{folder.path}/{name}" if folder.path else name)
    with ThreadPoolExecutor(THREADS) as pool:
        unnamed = dict(zip(others, pool.map(lambda name: _is_unnamed_dicom(root / name), others), strict=True))
    names += (name for name, is_image in unnamed.items() if is_image)
    if not names:
        raise UserError(f"--data: expected images ({', '.join(IMAGES)} or DICOM) below {root}, found none")
    left_out = [name for name, is_image in unnamed.items() if not is_image and name not in (LABELS, PATIENTS, TEST)]
    note_join(root, Side(len(names) + len(left_out), "files", "are images", "are not: left out", left_out))
    if closed:
        note(f"{root}: no images are taken from {first_names(closed)}: masks, or the output of a run")
    return FileIndex([root], [NameList.of(sorted(map(os.fsencode, names)))])


def _is_unnamed_dicom(path: Path) -> bool:
    return path.name != DICOM_DIRECTORY and is_dicom(path)


def make_folder_list(request: ListRequest) -> None:
    """Write ``folder_train.txt``: all images but those of a test list, or of ``test.txt`` in the folder."""
    own = request.root / TEST
    source = request.test_list or (own if own.exists() else None)
    held_out = set(match_list(read_names(source), request.files, source)) if source else set()
    names = [name for name in request.files.names if name not in held_out]
    if source == own:
        _write(request, "test", [name for name in request.files.names if name in held_out])
    _write(request, "train", names)


def _write(request: ListRequest, split: str, names: Sequence[str]) -> None:
    lines = seeded_order(map(listed_name, names), request.seed)
    write_list_once(list_path(request.folder, "folder", split), lines, source=f"the images of {request.root}")


def read_folder_labels(request: LabelRequest) -> LabelTable:
    """Read labels from ``labels.csv``, and patients from where :func:`patients_of` finds them.

    Raises:
        UserError: there is no ``labels.csv``, it has no column of labels, or as :func:`read_own_table`.
    """
    path = request.root / LABELS
    if not path.exists():
        raise UserError(f"--data: expected labels in {path}, with columns file and one of 0, 1 or blank for each label")
    labels = read_own_table(path, request.files, labels=request.columns)
    if not labels.classes:
        raise UserError(f"{path}: expected a column of 0, 1 or blank for each label, found none")
    tables = [labels]
    if (request.root / PATIENTS).exists():
        tables.append(read_own_table(request.root / PATIENTS, request.files, labels=()))
    patients = partial(patients_of, tables=tables, root=request.root, files=request.files)
    return LabelTable(labels.classes, labels.labels, patients)


def read_views(root: Path, files: FileIndex) -> dict[str, str]:
    """Return the view of each image by a table, else by DICOM's View Position; images of unknown views have none."""
    paths = [path for path in (root / LABELS, root / PATIENTS) if path.exists()]
    tables = [read_own_table(path, files, labels=()) for path in paths]
    pairs = (pair for table in tables for pair in table.views.items())
    known = unique(pairs, source=root, what="views", counted=False)
    return read_attributes(root, [name for name in files.names if name not in known], VIEW) | known


def patients_of(names: Sequence[str], *, tables: Sequence[OwnTable], root: Path, files: FileIndex) -> list[str]:
    """Return the patient ID of each image: by a table, else by DICOM, else the first folder, else the image's own name.

    Folders that hold all images are no patients. How many patients come from where is reported on stderr.

    Args:
        names: of the images.
        tables: those of the folder.
        root: the folder.
        files: all images in it.
    """
    pairs = (pair for table in tables for pair in table.patients.items())
    known = unique(pairs, source=root, what="patients", counted=False)
    in_dicom = read_attributes(root, [name for name in names if name not in known], PATIENT_ID)
    first = _depth_of_patients(files)
    sources: tuple[tuple[str, Callable[[str], str | None]], ...] = (
        ("a table", known.get),
        ("DICOM's Patient ID", in_dicom.get),
        ("their folder", lambda name: _folder_at(name, first)),
        ("each image by itself", str),
    )
    found: list[str] = []
    images, patients = Counter[str](), dict[str, set[str]]()
    for name in names:
        source, patient = next((source, p) for source, of in sources if (p := of(name)))
        images[source] += 1
        patients.setdefault(source, set()).add(patient)
        found.append(patient if source == "a table" else f"{source}: {patient}")
    said = [f"{len(patients[source])} by {source} ({count} images)" for source, count in images.items()]
    if images["their folder"] > MANY * len(patients.get("their folder", ())):
        said.append(f"which are many for a patient: if folders are none, name patients in {PATIENTS}")
    note(f"{root}: {len(set(found))} patients: {', '.join(said)}")
    return found


def _depth_of_patients(files: FileIndex) -> int:
    """How many folders, one in the other, hold all images: those below them may be patients."""
    return os.path.commonpath([f"root/{name}".rpartition("/")[0] for name in files.names]).count("/")


def _folder_at(name: str, depth: int) -> str | None:
    """Return the folder at a depth of an image's path; None where the image lies there itself."""
    folders = name.split("/")[:-1]
    return "/".join(folders[: depth + 1]) if len(folders) > depth else None
