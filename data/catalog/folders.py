"""Walk all folders below a folder, each once; hidden ones are skipped, symbolic links are followed."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from utils.errors import UserError


class Folder(NamedTuple):
    """A folder and the files in it."""

    path: str
    """Relative to the root of the walk, with ``/`` on every system; empty for the root itself."""
    files: list[str]
    """Sorted names of everything that is not a folder, including broken links."""


def is_hidden(name: str | bytes) -> bool:
    """Whether a name begins with a dot, as files that systems add beside the user's: macOS's ``._00000001_000.png``."""
    return name[:1] in (".", b".")


def _refuse(path: Path, error: OSError) -> None:
    raise UserError(f"cannot read the folder {path}: {error.strerror or error}") from error


def walk(root: str | Path, on_error: Callable[[Path, OSError], None] = _refuse) -> Iterator[Folder]:
    """Yield a folder and all folders below it.

    Each folder is visited once. Links are followed after all real folders, so that a folder is found under its own
    path rather than a link's, in whatever order they are listed. A link to a parent folder is thus skipped.

    Args:
        root: the folder to start from.
        on_error: called with each folder that cannot be read and the error; by default raises UserError.

    Raises:
        UserError: a folder cannot be read, unless ``on_error`` is given.
    """
    root = Path(root)
    real, links, seen = [""], list[str](), set[tuple[int, int]]()
    while real or links:
        name = (real or links).pop()
        path = root / name
        try:
            status = path.stat()
            if (identity := (status.st_dev, status.st_ino)) in seen:
                continue
            with os.scandir(path) as entries:
                ordered = sorted((entry for entry in entries if not is_hidden(entry.name)), key=lambda e: e.name)
        except OSError as error:
            on_error(path, error)
            continue
        seen.add(identity)
        files = list[str]()
        # Reversed, since the last folder in the list is visited next.
        for entry in reversed(ordered):
            if _is_folder(entry):
                (links if entry.is_symlink() else real).append(f"{name}/{entry.name}" if name else entry.name)
            else:
                files.append(entry.name)
        yield Folder(name, files[::-1])


def folders_in(folder: Path) -> list[str]:
    """Sorted names of the folders directly in a folder, including links to folders, without hidden ones.

    Raises:
        UserError: the folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not is_hidden(entry.name) and _is_folder(entry))
    except OSError as error:
        _refuse(folder, error)
        return []


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
