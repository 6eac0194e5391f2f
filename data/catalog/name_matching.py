"""Finds the images that a user's table or list names, also by names without folders or endings, or in other case."""

import functools
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from data.catalog.file_index import FileIndex
from data.catalog.joins import Side, note_join
from data.catalog.lists import read_names
from data.catalog.names import NameList
from data.readers.file_names import SCANS, ending_of, stem_of
from data.readers.images import IMAGES
from utils.notes import note

# Of names in lists: a blank would end them, and % begins what stands for another character.
UNLISTABLE = re.compile("[ \t\n\r\x0b\x0c%\ud800-\udfff]")


def listed_name(name: str) -> str:
    """Return a file's name as lists hold it: a blank is ``%20``, and ``%`` is ``%25``."""
    return UNLISTABLE.sub(lambda found: quote_from_bytes(os.fsencode(found[0]), safe=""), name)


def _without_ending(name: str) -> str:
    """Drop the ending of an image; other dots, such as those of a DICOM UID, belong to the name."""
    return stem_of(Path(name)) if ending_of(Path(name)) in (*IMAGES, *SCANS) else name


# Tried in this order: how a name may differ from the file that it means, and what both then have in common.
RULES: dict[str, Callable[[str], str]] = {
    "with other folders": str,
    "with another ending": _without_ending,
    "in other case": lambda name: _without_ending(name).casefold(),
}
# Tried last.
OF_FOLDER = "of folders with one file each"


class NameMatcher:
    """Finds files by names that people wrote.

    A name means the file of exactly this path or, by the first of RULES that fits one file alone, a file of this name.
    Where a name and a file both have folders, those next to the name must agree: ``b/1.png`` does not mean ``a/1.png``.
    Last, the name of a folder means the file below it, if there is one alone, such as a patient's DICOM series.

    Args:
        names: of the files, relative to the data set's folder.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.exact = set(names)
        self.reported: set[str] = set()

    @functools.cached_property
    def by_key(self) -> list[dict[str, list[str]]]:
        """For each of RULES, the files by what they have in common with the names that mean them."""
        tables = [defaultdict[str, list[str]](list) for _ in RULES]
        for name in self.exact:
            for table, key in zip(tables, RULES.values(), strict=True):
                table[key(name.rpartition("/")[2])].append(name)
        return [dict(table) for table in tables]

    @functools.cached_property
    def by_folder(self) -> dict[str, dict[str, str | None]]:
        """By the last part of folders' paths, in lower case: each such folder, and its one file, None for several."""
        found = defaultdict[str, dict[str, str | None]](dict)
        for name in self.exact:
            folder = name.rpartition("/")[0]
            while folder:
                above, _, last = folder.rpartition("/")
                folders = found[last.casefold()]
                folders[folder] = None if folder in folders else name
                folder = above
        return dict(found)

    def find(self, name: str) -> tuple[str | None, str]:
        """Return the file that a name means, None for none or several, and the rule that found it, empty for exact."""
        path = name.strip().replace("\\", "/").removeprefix("./").rstrip("/")
        if path in self.exact:
            return path, ""
        *folders, last = path.split("/")
        for (rule, key), table in zip(RULES.items(), self.by_key, strict=True):
            files = [file for file in table.get(key(last), ()) if _agree(file.split("/")[:-1], folders)]
            if files:
                return (files[0] if len(files) == 1 else None), rule
        below = self.by_folder.get(last.casefold(), {}).items()
        only = {file for folder, file in below if _agree(folder.split("/")[:-1], folders)}
        return (next(iter(only)) if len(only) == 1 else None), OF_FOLDER if only else ""

    def find_all(self, names: Iterable[str], *, source: str | Path) -> dict[str, str]:
        """Return the files that names mean; how many were found by which rule is reported on stderr, once a source."""
        found: dict[str, str] = {}
        rules, example = Counter[str](), dict[str, str]()
        for name in names:
            file, rule = self.find(name)
            if file is not None:
                found[name] = file
            elif rule:
                rule = "that fit several files: not used"
            if rule:
                rules[rule] += 1
                example.setdefault(rule, f"{name} is {file}" if file else name)
        for rule, count in rules.items() if str(source) not in self.reported else ():
            note(f"{source}: {count} names {rule} ({example[rule]})")
        self.reported.add(str(source))
        return found


def _agree(one: list[str], other: list[str]) -> bool:
    """Whether the last folders of two paths are the same, as far as both have some."""
    return all(a.casefold() == b.casefold() for a, b in zip(reversed(one), reversed(other), strict=False))


@functools.lru_cache(maxsize=1)
def matcher_of(files: FileIndex) -> NameMatcher:
    """The matcher of a run's files, made once for all its lists and tables."""
    return NameMatcher(files.names)


def match_list(names: NameList, files: FileIndex, source: str | Path) -> NameList:
    """Return the files that the names of a list mean; names that mean none as they are."""
    if (names.buffer == ord("%")).any():
        names = NameList.of(unquote_to_bytes(name) for name in names)
    if files.join(names, source=source).there.all():
        return names
    matched = matcher_of(files).find_all(names, source=source)
    return NameList.of(dict.fromkeys(matched.get(name, name) for name in names))


def read_skipped(path: str | Path | None, files: FileIndex) -> frozenset[str]:
    """Read the names of ``--skip``, the files that are left out; those that are no files are reported on stderr.

    Raises:
        UserError: the list cannot be read.
    """
    if path is None:
        return frozenset()
    listed = files.join(match_list(read_names(path), files, path), source=path)
    note_join(path, Side(len(listed.names), "names", "in --data: left out", "not", listed.absent()))
    return frozenset(listed.names.keep(listed.there))
