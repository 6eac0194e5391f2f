"""What the files of a data set are, in numbers that do not grow with it: counts of kinds, and ranges of numbers."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from data.readers.file_facts import FileFacts

DIGITS = 4  # to which numbers are rounded, so that they can be counted
SHOWN = 5  # kinds and orientations that have a row of their own
AXES = {2: ("width", "height"), 3: ("x", "y", "z")}


class Numbers:
    """Least, median and largest of many numbers, by how often each is there."""

    def __init__(self) -> None:
        self.counts = Counter[float]()

    def add(self, number: float) -> None:
        """Count a number; NaN is not counted."""
        if not math.isnan(number):
            self.counts[float(f"{number:.{DIGITS}g}")] += 1

    def summary(self) -> tuple[float, float, float]:
        """Return the least, the median and the largest number."""
        ordered, passed = sorted(self.counts), 0
        for number in ordered:
            passed += self.counts[number]
            if 2 * passed >= self.counts.total():
                return ordered[0], number, ordered[-1]
        raise ValueError("no numbers")

    def __str__(self) -> str:
        return " – ".join(f"{number:g}" for number in dict.fromkeys(self.summary()))


class Tally:
    """The facts of files of one kind of data."""

    def __init__(self) -> None:
        self.files = 0
        self.kinds, self.orientations, self.found = Counter[str](), Counter[str](), Counter[str]()
        self.numbers: dict[str, Numbers] = {}
        self.flat = 0
        self.flat_names: list[str] = []

    def add(self, name: str, facts: FileFacts, found: Sequence[str] = ()) -> None:
        """Count a file."""
        self.files += 1
        self.kinds[facts.kind] += 1
        self.orientations.update([facts.orientation] if facts.orientation else [])
        self.found.update(found)
        dim = len(facts.size)
        for axis, length in zip(AXES[dim], facts.size, strict=True):
            self._add(f"{axis}, {'pixels' if dim == 2 else 'voxels'}", length)
        for axis, step in zip(AXES[3], facts.spacing, strict=False):
            self._add(f"{axis}, mm", step)
        low, high = facts.values
        self._add("least value", low)
        self._add("largest value", high)
        if low == high:
            self.flat += 1
            self.flat_names += [name] * (len(self.flat_names) < SHOWN)

    def _add(self, row: str, number: float) -> None:
        self.numbers.setdefault(row, Numbers()).add(number)

    def rows(self) -> dict[str, str]:
        """Return what was counted, as text by row."""
        rows = {kind: str(count) for kind, count in self.kinds.most_common(SHOWN)}
        if (rest := len(self.kinds) - SHOWN) > 0:
            rows[f"of {rest} other kinds"] = str(sum(count for _, count in self.kinds.most_common()[SHOWN:]))
        rows |= {name: str(numbers) for name, numbers in self.numbers.items() if numbers.counts}
        rows |= {f"axes {axes}": str(count) for axes, count in self.orientations.most_common(SHOWN)}
        rows |= {f"with {name}": str(count) for name, count in sorted(self.found.items())}
        return rows | ({"of one value only": str(self.flat)} if self.flat else {})

    def as_record(self) -> dict[str, Any]:
        """Return what was counted, as JSON stores it."""
        ranges = {name: list(numbers.summary()) for name, numbers in self.numbers.items() if numbers.counts}
        return {
            "kinds": dict(self.kinds), "least_median_largest": ranges, "axes": dict(self.orientations),
            "with": dict(self.found), "of_one_value": self.flat, "first_of_one_value": self.flat_names,
        }  # fmt: skip


def table(columns: dict[str, dict[str, str]]) -> str:
    """Return rows of text, aligned, a column for each group of files; rows are in the order of the first that has them.

    Args:
        columns: by title, text by row.
    """
    rows = list(dict.fromkeys(row for column in columns.values() for row in column))
    cells = [["", *columns], *([row, *(column.get(row, "") for column in columns.values())] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)
    return "\n".join(line.rstrip() for line in lines if line.strip())
