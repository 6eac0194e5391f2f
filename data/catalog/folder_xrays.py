"""A user's own X-rays: images in any folders below one, and tables of their patients and labels if there are any."""

import functools
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from data.catalog.file_index import FileIndex, require_folder
from data.catalog.folders import walk
from data.catalog.joins import Side, first_names, note_join, unique
from data.catalog.label_table import LABELS, PATIENTS, OwnTable, read_own_table
from data.catalog.lists import list_path, read_names, seeded_order, write_list_once
from data.catalog.name_matching import NameMatcher
from data.catalog.names import NameList
from data.catalog.xray_dataset import LabelRequest, LabelTable, ListRequest
from data.readers.file_names import ending_of
from data.readers.images import IMAGES
from utils.errors import UserError
from utils.notes import note

TEST, MASKS, RUN = "test.txt", "masks", "run.json"
# Of names in lists: a blank would end them, and % begins what stands for another character.
UNLISTABLE = re.compile("[ \t\n\r\x0b\x0c%\ud800-\udfff]")


def index_folder(root: Path) -> FileIndex:
    """Return the images below a folder, named by their path relative to it.

    Masks, which are in ``masks/``, and the folders of runs of this program are left out, which is reported on stderr.

    Raises:
        UserError: no such folder, or no images in it.
    """
    root = require_folder(root)
    names, others, closed = list[bytes](), list[str](), list[str]()
    for folder in walk(root):
        if any(folder.path.startswith(f"{path}/") for path in closed):
            continue
        if folder.path == MASKS or RUN in folder.files:
            closed.append(folder.path)
            continue
        start = f"{folder.path}/" if folder.path else ""
        images = [name for name in folder.files if ending_of(Path(name)) in IMAGES]
        names += (os.fsencode(start + name) for name in images)
        others += (start + name for name in folder.files if name not in images)
    if not names:
        raise UserError(f"--data: expected images ({', '.join(IMAGES)}) below {root}, found none")
    left_out = [name for name in others if name not in (LABELS, PATIENTS, TEST)]
    note_join(root, Side(len(names) + len(left_out), "files", "are images", "are not: left out", left_out))
    if closed:
        note(f"{root}: no images are taken from {first_names(closed)}: masks, or the output of a run")
    return FileIndex([root], [NameList.of(sorted(names))])


def make_folder_list(request: ListRequest) -> None:
    """Write ``folder_train.txt``: all images but those of a test list, or of ``test.txt`` in the folder."""
    own = request.root / TEST
    source = request.test_list or (own if own.exists() else None)
    held_out = set(match_list(read_names(source), request.files)) if source else set()
    names = [name for name in request.files.names if name not in held_out]
    if source == own:
        _write(request, "test", [name for name in request.files.names if name in held_out])
    _write(request, "train", names)


def _write(request: ListRequest, split: str, names: Sequence[str]) -> None:
    lines = seeded_order(map(listed_name, names), request.seed)
    write_list_once(list_path(request.folder, "folder", split), lines, source=f"the images of {request.root}")


def listed_name(name: str) -> str:
    """Return an image's name as lists hold it: a blank is ``%20``, and ``%`` is ``%25``."""
    return UNLISTABLE.sub(lambda found: quote_from_bytes(os.fsencode(found[0]), safe=""), name)


@functools.lru_cache(maxsize=1)
def _matcher_of(files: FileIndex) -> NameMatcher:
    """The matcher of a run's images, made once for all its lists."""
    return NameMatcher(files.names)


def match_list(names: NameList, files: FileIndex) -> NameList:
    """Return the images that the names of a list mean, see :class:`NameMatcher`; other names as they are."""
    if (names.buffer == ord("%")).any():
        names = NameList.of(unquote_to_bytes(name) for name in names)
    if files.join(names, source="").there.all():
        return names
    matched = _matcher_of(files).find_all(names, source="list")
    return NameList.of(dict.fromkeys(matched.get(name, name) for name in names))


def read_folder_labels(request: LabelRequest) -> LabelTable:
    """Read labels from ``labels.csv``, and patients from it, from ``patients.csv`` or from the folders.

    Raises:
        UserError: there is no ``labels.csv``, it has no column of labels, or as :func:`read_own_table`.
    """
    path = request.root / LABELS
    if not path.exists():
        raise UserError(f"--data: expected labels in {path}, with columns file and one of 0, 1 or blank for each label")
    names = list(request.files.names)
    labels = read_own_table(path, names, classes=True)
    if not labels.classes:
        raise UserError(f"{path}: expected a column of 0, 1 or blank for each label, found none")
    tables = [labels]
    if (request.root / PATIENTS).exists():
        tables.append(read_own_table(request.root / PATIENTS, names, classes=False))
    return LabelTable(labels.classes, labels.labels, partial(patients_of, tables=tables, root=request.root))


def patients_of(names: Sequence[str], *, tables: Sequence[OwnTable], root: Path) -> list[str]:
    """Return the patient ID of each image: by a table, else the first folder, else the image's own name.

    Folders that hold all images are no patients. How many patients come from where is reported on stderr.
    """
    pairs = (pair for table in tables for pair in table.patients.items())
    known = unique(pairs, source=root, what="patients", counted=False)
    common = os.path.commonpath([name.rpartition("/")[0] or "." for name in names]) if names else ""
    first = len(common.split("/")) if common not in ("", ".") else 0
    sources: tuple[tuple[str, Callable[[str], str | None]], ...] = (
        ("a table", known.get),
        ("their folder", lambda name: _folder_at(name, first)),
        ("each image by itself", str),
    )
    found: list[str] = []
    images, patients = Counter[str](), dict[str, set[str]]()
    for name in names:
        source, patient = next((source, p) for source, of in sources if (p := of(name)))
        images[source] += 1
        patients.setdefault(source, set()).add(patient)
        found.append(patient if source == sources[0][0] else f"{source}: {patient}")
    said = (f"{len(patients[source])} by {source} ({count} images)" for source, count in images.items())
    note(f"{root}: {len(set(found))} patients: {', '.join(said)}")
    return found


def _folder_at(name: str, depth: int) -> str | None:
    """Return the folder at a depth of an image's path; None where the image lies there itself."""
    folders = name.split("/")[:-1]
    return "/".join(folders[: depth + 1]) if len(folders) > depth else None
