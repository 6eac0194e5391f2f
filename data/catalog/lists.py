"""Reading and writing of lists of names, one per line, whose order decides which samples pre-train."""

import codecs
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np

from data.catalog.joins import first_names
from data.catalog.names import NameList, join_names
from utils.atomic import whole_file
from utils.errors import UserError
from utils.fingerprint import fingerprint_of
from utils.notes import note
from utils.seeding import seed_of

NEWLINE, SPACE, TAB = 10, 32, 9
# Bytes of a list that are parsed at a time, which limits the memory needed.
PORTION = 1 << 22
# Replacements of Windows and old Macintosh line ends and of rare ASCII blanks.
REPLACED = {b"\r": b"\n", b"\x0b": b" ", b"\x0c": b" "}
# A name in a list has no blanks, which would end it, and is UTF-8, which file names need not be.
LISTABLE = re.compile("[^ \t\n\r\x0b\x0c\0\ud800-\udfff]+")


def list_path(folder: str | Path, name: str, split: str) -> Path:
    """Return the path of a list, e.g. ``train_val_txt/chest_train.txt``."""
    return Path(folder) / f"{name}_{split}.txt"


def read_names(path: str | Path) -> NameList:
    """Read the names of a list: the first word of each line; what follows (labels) is ignored.

    Blank lines, Windows line ends and a byte order mark are accepted; repeated names are dropped and counted on stderr.

    Raises:
        UserError: the file cannot be read, is not UTF-8, names nothing, or a name leads out of the data set's folder.
    """
    path = Path(path)
    parts = []
    try:
        with open(path, "rb") as file:
            for text in _portions(file):
                _check_encoding(text, path)
                part = _first_words(text)
                _check(part, path)
                parts.append(part)
    except OSError as error:
        raise UserError(f"cannot read the list {path}: {error.strerror or error}") from error
    names = join_names(parts)
    if not len(names):
        raise UserError(f"{path}: expected names, one a line, found none")
    first = _first_of_each(names.hashes())
    if not first.all():
        note(f"{path}: {len(names) - int(first.sum())} repeated names are dropped")
        names = names.keep(first)
    return names


def _portions(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the file's whole lines, some megabytes at a time, with line ends and blanks replaced as in REPLACED."""
    rest = file.read(len(codecs.BOM_UTF8)).removeprefix(codecs.BOM_UTF8)
    while True:
        block = file.read(PORTION)
        text = rest + block
        for old, new in REPLACED.items():
            text = text.replace(old, new)
        if not block:
            yield text + b"\n"
            return
        cut = text.rfind(b"\n") + 1
        if cut:
            yield text[:cut]
        rest = text[cut:]


def _first_words(text: bytes) -> NameList:
    """Return the first word of each line that has one; ``text`` ends with a line end."""
    if not text.strip():
        return NameList.of([])
    data = np.frombuffer(text, dtype=np.uint8)
    blanks = np.flatnonzero(data <= SPACE)
    kinds = data[blanks]
    line_ends = np.flatnonzero(kinds == NEWLINE)  # among the blanks
    begins = np.concatenate([[0], blanks[line_ends[:-1]] + 1])
    if data[begins].min() <= SPACE or not ((kinds == NEWLINE) | (kinds == SPACE) | (kinds == TAB)).all():
        # Indented or empty lines, or control characters: rare, so that the slow way is good enough.
        lines = (line.split(None, 1) for line in text.split(b"\n"))
        return NameList.of(words[0] for words in lines if words)
    stops = blanks[np.concatenate([[0], line_ends[:-1] + 1])]
    # Lengths of words and of what is between them, alternately.
    lengths = np.diff(np.stack([begins, stops], axis=1).ravel(), append=len(data))
    word = np.tile([True, False], len(begins))
    return NameList(data[np.repeat(word, lengths)], np.cumsum(stops - begins))


def _first_of_each(values: np.ndarray) -> np.ndarray:
    """Return a mask that is True at the first occurrence of each value."""
    ordered = np.sort(values)
    if not (ordered[1:] == ordered[:-1]).any():
        return np.ones(len(values), dtype=bool)
    mask = np.zeros(len(values), dtype=bool)
    mask[np.unique(values, return_index=True)[1]] = True
    return mask


def _check_encoding(text: bytes, path: Path) -> None:
    try:
        codecs.utf_8_decode(text, "strict", True)
    except UnicodeDecodeError as error:
        line = text[text.rfind(b"\n", 0, error.start) + 1 :].partition(b"\n")[0]
        raise UserError(f"{path}: expected UTF-8 text ({error.reason} in the line {line[:80]!r})") from None


def _check(names: NameList, path: Path) -> None:
    content = names.buffer
    dots = bool(((content[1:] == ord(".")) & (content[:-1] == ord("."))).any())
    odd = bool((content == 0).any() or (content == ord("\\")).any())
    if dots or odd or bool((content[names.ends - names.lengths] == ord("/")).any()):
        for name in names:
            if name.startswith("/") or "\0" in name or ".." in name.replace("\\", "/").split("/"):
                raise UserError(f"{path}: expected names within the data set's folder, got {name!r}")


def cut_list(names: NameList, ratio: float) -> tuple[NameList, NameList]:
    """Cut names into the first int(ratio · n), for pre-training, and the rest, for fine-tuning."""
    k = int(ratio * len(names))
    return names.slice(0, k), names.slice(k, len(names))


def fingerprint(names: NameList) -> str:
    """Return a short hash of the names and their order, for ``run.json`` and for resuming."""
    return fingerprint_of(names.buffer, names.ends)


def seeded_order(names: Iterable[str], seed: int) -> list[str]:
    """Sort names in an order that depends only on the seed and the names, not on the file system.

    Names that a list cannot hold, with blanks or not in UTF-8, are left out and counted on stderr.
    """
    names = list(names)
    listable = [name for name in names if LISTABLE.fullmatch(name)]
    if len(listable) < len(names):
        unlistable = [ascii(name) for name in names if not LISTABLE.fullmatch(name)]
        note(f"{len(unlistable)} names with blanks or not in UTF-8 are left out ({first_names(unlistable)})")
    return sorted(listable, key=lambda name: (seed_of(seed, "list", name), name))


def write_list_once(path: Path, lines: Iterable[str], *, source: str) -> None:
    """Write a list and report it on stderr; a list that exists is left as it is.

    Raises:
        UserError: the folder cannot be written.
    """
    if path.is_file():
        return
    lines = list(lines)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--lists: cannot make {path.parent}: {error.strerror or error}") from error
    with whole_file(path, "w") as file:
        file.writelines(line + "\n" for line in lines)
    note(f"made {path} from {source}: {len(lines)} names")
