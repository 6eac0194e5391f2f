"""Find every image or volume below a folder, whatever it is for."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from data.catalog.file_index import require_folder
from data.catalog.folder_xrays import index_folder
from data.catalog.scans import MASKS, list_name
from data.catalog.volumes import find_volumes
from data.readers.file_names import SCANS, ending_of
from data.readers.images import IMAGES
from data.readers.volumes import Source
from utils.errors import UserError


class FoundFiles(NamedTuple):
    """Images or volumes, each with a name of its own."""

    names: list[str]
    sources: list[Source]
    refused: list[str]
    """A line for each folder or DICOM series that cannot be read as it is."""


def find_files(root: str | Path, dim: int, *, verbose: bool) -> FoundFiles:
    """Find the images below a folder as ``--n folder --d 2`` does, or the volumes as ``luna_preprocess.py`` does.

    Images are named by their path relative to the folder, volumes likewise without their endings, and LUNA16's by their
    files alone; these are the names of :func:`data.catalog.scans.list_name`, with blanks as they are.

    Args:
        root: the folder.
        dim: 2 for images, 3 for volumes.
        verbose: whether to report on stderr what is left out.

    Raises:
        UserError: no such folder, nothing in it, or two volumes of one name.
    """
    root = require_folder(root)
    if dim == 2:
        names = list(index_folder(root).names)
        return FoundFiles(names, [root / name for name in names], [])
    volumes, refused = find_volumes(root, exclude=MASKS, verbose=verbose)
    named = [
        (unquote(list_name(volume.folder, volume.name), errors="surrogateescape"), volume.source) for volume in volumes
    ]
    if not named:
        why = f"; the first that cannot be read: {refused[0]}" if refused else ""
        raise UserError(f"--data: expected volumes ({', '.join(SCANS)} or DICOM) below {root}, found none{why}")
    _require_unique([name for name, _ in named])
    return FoundFiles([name for name, _ in named], [source for _, source in named], refused)


def _require_unique(names: Sequence[str]) -> None:
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise UserError(f"--data: expected each volume's name once, two are {twice}; rename or remove one of them")


def file_names(names: Sequence[str]) -> list[str]:
    """Return names for files in one folder: without an image's ending if no other has the rest, with ``_`` for ``/``.

    Raises:
        UserError: two become the same.
    """
    stems = [name[: -len(end)] if (end := ending_of(Path(name))) in IMAGES and end else name for name in names]
    count = Counter(stems)
    flat = [(name if count[stem] > 1 else stem).replace("/", "_") for name, stem in zip(names, stems, strict=True)]
    _require_unique(flat)
    return flat
