"""All folders below a folder: hidden ones left out, symbolic links followed, loops not."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from utils.errors import UserError


class Folder(NamedTuple):
    """A folder and the files in it."""

    path: str
    """Relative to where the walk began, with ``/`` on every system; empty for that folder itself."""
    files: list[str]
    """Their names, in order; whatever is no folder, broken links among them."""


def is_hidden(name: str | bytes) -> bool:
    """Whether a name begins with a dot: what systems leave beside people's files, as macOS's ``._00000001_000.png``."""
    return name[:1] in (".", b".")


def _refuse(path: Path, error: OSError) -> None:
    raise UserError(f"cannot read the folder {path}: {error.strerror or error}") from error


def walk(root: str | Path, on_error: Callable[[Path, OSError], None] = _refuse) -> Iterator[Folder]:
    """The folder itself and all below it.

    Each is visited once: links wait until all real folders were seen, so that a folder has the path that is its own
    rather than a link's, whatever the order of their names. A link that leads back up is thus passed over.

    Args:
        root: where to begin.
        on_error: called with each folder that cannot be read, and why; unset: that is an error.

    Raises:
        UserError: a folder cannot be read.
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
        # Reversed, since the last folder is taken next.
        for entry in reversed(ordered):
            if _is_folder(entry):
                (links if entry.is_symlink() else real).append(f"{name}/{entry.name}" if name else entry.name)
            else:
                files.append(entry.name)
        yield Folder(name, files[::-1])


def folders_in(folder: Path) -> list[str]:
    """The names of the folders in a folder, links to such among them, in order, hidden ones left out.

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
    except OSError:  # a link that leads to itself
        return False
