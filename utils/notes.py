"""Prints lines on stderr in the main process only."""

import contextlib
from collections.abc import Iterator

from utils.progress import say
from utils.world import read_world

_kept: list[list[str]] = []


def note(line: str) -> None:
    """Print a line on stderr in the main process only, since all processes have the same message."""
    if not read_world().is_main:
        return
    if _kept:
        _kept[-1].append(line)
    else:
        say(line)


@contextlib.contextmanager
def kept_notes() -> Iterator[list[str]]:
    """Keep the lines of the block instead of printing them."""
    lines = list[str]()
    _kept.append(lines)
    try:
        yield lines
    finally:
        _kept.pop()
