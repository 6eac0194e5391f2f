"""Finds the images that a user's table or list names, also by names without folders or endings, or in other case."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from data.readers.file_names import ending_of, stem_of
from data.readers.images import IMAGES
from utils.notes import note


def _without_ending(name: str) -> str:
    """Drop the ending of an image; other dots, such as those of a DICOM UID, belong to the name."""
    return stem_of(Path(name)) if ending_of(Path(name)) in IMAGES else name


# Tried in this order: what a name has in common with the file that it means, and how it differs.
RULES: dict[str, Callable[[str], str]] = {
    "with other folders": str,
    "with another ending": _without_ending,
    "in other case": lambda name: _without_ending(name).casefold(),
}


class NameMatcher:
    """Finds files by names that people wrote.

    A name means the file of exactly this path or, by the first of RULES that fits one file alone, a file of this name.
    Where a name and a file both have folders, those next to the name must agree: ``b/1.png`` does not mean ``a/1.png``.

    Args:
        names: of the files, relative to the data set's folder.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.exact = set(names)
        self.by_key: list[defaultdict[str, list[str]]] = [defaultdict(list) for _ in RULES]
        for name in self.exact:
            for table, key in zip(self.by_key, RULES.values(), strict=True):
                table[key(name.rpartition("/")[2])].append(name)

    def find(self, name: str) -> tuple[str | None, str]:
        """Return the file that a name means, None for none or several, and the rule that found it, empty for exact."""
        path = name.strip().replace("\\", "/").removeprefix("./")
        if path in self.exact:
            return path, ""
        *folders, last = path.split("/")
        for (rule, key), table in zip(RULES.items(), self.by_key, strict=True):
            files = [file for file in table.get(key(last), ()) if _agree(file.split("/")[:-1], folders)]
            if files:
                return (files[0] if len(files) == 1 else None), rule
        return None, ""

    def find_all(self, names: Iterable[str], *, source: str | Path) -> dict[str, str]:
        """Return the files that names mean; how many were found by which rule is reported on stderr."""
        found, rules, example = {}, Counter[str](), dict[str, str]()
        for name in names:
            file, rule = self.find(name)
            if file is not None:
                found[name] = file
            elif rule:
                rule = "that fit several files: not used"
            if rule:
                rules[rule] += 1
                example.setdefault(rule, f"{name} is {file}" if file else name)
        for rule, count in rules.items():
            note(f"{source}: {count} names {rule} ({example[rule]})")
        return found


def _agree(one: list[str], other: list[str]) -> bool:
    """Whether the last folders of two paths are the same, as far as both have some."""
    return all(a.casefold() == b.casefold() for a, b in zip(reversed(one), reversed(other), strict=False))
