"""Reports of joins of two sources, such as a list and a folder: counts of both sides, and names without a match."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from data.catalog.names import NameList
from utils.errors import UserError
from utils.notes import note

# At most this many names are printed; all are counted.
SHOWN = 5

Value = TypeVar("Value")


class Side(NamedTuple):
    """One side of a join, e.g. the images of a folder: ``10 of 12 images with a row, 2 without (a.png, b.png)``."""

    total: int
    what: str
    matched: str
    """The words for those that are on the other side too."""
    unmatched: str
    """The words for the others."""
    left_over: NameList | Sequence[str]
    """Those that are not on the other side."""

    def __str__(self) -> str:
        text = f"{self.total - len(self.left_over)} of {self.total} {self.what} {self.matched}"
        return text + (
            f", {len(self.left_over)} {self.unmatched} ({first_names(self.left_over)})" if len(self.left_over) else ""
        )


def first_names(names: NameList | Sequence[str]) -> str:
    """Return the first five names as text: ``a.png, b.png``, followed by ``...`` if there are more."""
    shown = [names[i] for i in range(min(SHOWN, len(names)))]
    return ", ".join([*shown, "..."] if len(names) > SHOWN else shown)


def note_join(source: str | Path, *sides: Side) -> None:
    """Print one line about a join on stderr."""
    note(f"{source}: {'; '.join(map(str, sides))}")


def unique(
    pairs: Iterable[tuple[str, Value]], *, source: str | Path, what: str, counted: bool = True
) -> dict[str, Value]:
    """Make a mapping from the rows of a table; repeated rows are dropped and counted on stderr.

    Args:
        pairs: each row's name and value.
        source: the table.
        what: the kind of value, for messages: ``"labels"``.
        counted: whether to print the count; False if it was printed before.

    Raises:
        UserError: a name has two different values.
    """
    found: dict[str, Value] = {}
    differing: dict[str, None] = {}
    repeated = 0
    for name, value in pairs:
        if name in found:
            repeated += 1
            if found[name] != value:
                differing[name] = None
        found.setdefault(name, value)
    if differing:
        raise UserError(
            f"{source}: {len(differing)} names are listed twice with different {what} "
            f"({first_names(list(differing))}); keep the right row of each"
        )
    if repeated and counted:
        note(f"{source}: {repeated} repeated names are dropped")
    return found
