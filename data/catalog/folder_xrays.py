"""A user's own X-rays: images in any folders below one, and tables of their patients and labels if there are any."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from data.catalog.dicom_attributes import read_attributes
from data.catalog.file_index import FileIndex, require_folder
from data.catalog.folder_patients import patients_of
from data.catalog.folders import walk
from data.catalog.joins import Side, first_names, note_join, unique
from data.catalog.label_table import LABELS, PATIENTS, OwnTable, read_own_table
from data.catalog.lists import list_path, read_names, seeded_order, write_list_once
from data.catalog.name_matching import listed_name, match_list
from data.catalog.names import NameList
from data.catalog.xray_dataset import LabelRequest, LabelTable, ListRequest
from data.readers.dicom_tags import PATIENT_ID, VIEW, is_dicom
from data.readers.images import IMAGES
from utils.errors import UserError
from utils.notes import note

TEST, MASKS, RUN = "test.txt", "masks", "run.json"
# What --check leaves in a folder: its picture is no image of the data.
CHECK = SHEET, RECORD = "check.png", "check.json"
# A directory of DICOM files, itself in DICOM.
DICOM_DIRECTORY = "DICOMDIR"
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
    found = _files_below(root)
    names = [name for name in found if name.lower().endswith(IMAGES)]
    names += _unnamed_dicom(root, [name for name in found if not name.lower().endswith(IMAGES)])
    if not names:
        raise UserError(f"--data: expected images ({', '.join(IMAGES)} or DICOM) below {root}, found none")
    others = sorted({*found} - {*names, LABELS, PATIENTS, TEST})
    note_join(root, Side(len(names) + len(others), "files", "are images", "are not: left out", others))
    return FileIndex([root], [NameList.of(sorted(map(os.fsencode, names)))])


def _files_below(root: Path) -> list[str]:
    """Return the paths of files below a folder, relative to it, without masks and the output of runs."""
    found, closed = list[str](), list[str]()
    for folder in walk(root):
        if any(folder.path.startswith(f"{path}/") for path in closed):
            continue
        if folder.path == MASKS or RUN in folder.files:
            closed.append(folder.path)
        else:
            names = [name for name in folder.files if RECORD not in folder.files or name not in CHECK]
            found += (f"{folder.path}/{name}" if folder.path else name for name in names)
    if closed:
        note(f"{root}: no images are taken from {first_names(closed)}: masks, or the output of a run")
    return found


def _unnamed_dicom(root: Path, names: Sequence[str]) -> list[str]:
    """Return the files that are images in DICOM by their content."""
    names = [name for name in names if name.rpartition("/")[2] != DICOM_DIRECTORY]
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda name: is_dicom(root / name), names)
        return [name for name, is_image in zip(names, found, strict=True) if is_image]


def make_folder_list(request: ListRequest) -> None:
    """Write ``folder_train.txt``: all images but those of a test list, or of ``test.txt`` in the folder."""
    own = request.root / TEST
    source = request.test_list or (own if own.exists() else None)
    held_out = _read_test(source, request.files) if source else set()
    if source == own:
        _write(request, "test", [name for name in request.files.names if name in held_out])
    # Written last: where there is a training list, there are all.
    _write(request, "train", [name for name in request.files.names if name not in held_out])


def _read_test(path: Path, files: FileIndex) -> set[str]:
    listed = files.join(match_list(read_names(path), files, path), source=path)
    if not listed.there.any():
        raise UserError(f"{path}: none of its {len(listed.names)} names is an image ({first_names(listed.names)})")
    note_join(path, Side(len(listed.names), "names", "in --data", "not", listed.absent()))
    return set(listed.names.keep(listed.there))


def _write(request: ListRequest, split: str, names: Sequence[str]) -> None:
    lines = seeded_order(map(listed_name, names), request.seed)
    write_list_once(list_path(request.folder, "folder", split), lines, source=f"the images of {request.root}")


def read_folder_labels(request: LabelRequest) -> LabelTable:
    """Read labels from ``labels.csv``, and patients from where :func:`patients_of` finds them.

    Raises:
        UserError: as :func:`read_own_labels`.
    """
    return read_own_labels(request, partial(_patients_in_dicom, request.root))


def read_own_labels(
    request: LabelRequest, in_dicom: Callable[[Sequence[str]], Mapping[str, str]]
) -> LabelTable:  # fmt: skip
    """Read ``labels.csv`` and, if there is one, ``patients.csv``.

    Args:
        request: the folder and its files.
        in_dicom: names to the Patient ID of each that is DICOM and has one.

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
    patients = partial(patients_of, tables=tables, in_dicom=in_dicom, root=request.root, files=request.files)
    return LabelTable(labels.classes, labels.labels, patients)


def read_patients(root: Path, files: FileIndex, names: Sequence[str]) -> list[str]:
    """Return the patient ID of each of some images, see :func:`patients_of`."""
    in_dicom = partial(_patients_in_dicom, root)
    return patients_of(names, tables=_own_tables(root, files), in_dicom=in_dicom, root=root, files=files)


def _patients_in_dicom(root: Path, names: Sequence[str]) -> Mapping[str, str]:
    return read_attributes(root, names, PATIENT_ID)


def _own_tables(root: Path, files: FileIndex) -> list[OwnTable]:
    paths = [path for path in (root / LABELS, root / PATIENTS) if path.exists()]
    return [read_own_table(path, files, labels=()) for path in paths]


def read_views(root: Path, files: FileIndex) -> dict[str, str]:
    """Return the view of each image by a table, else by DICOM's View Position; images of unknown views have none."""
    pairs = (pair for table in _own_tables(root, files) for pair in table.views.items())
    known = unique(pairs, source=root, what="views", counted=False)
    return read_attributes(root, [name for name in files.names if name not in known], VIEW) | known
