"""Prints lines on stderr in the main process only."""

from utils.progress import say
from utils.world import read_world


def note(line: str) -> None:
    """Print a line on stderr in the main process only, since all processes have the same message."""
    if read_world().is_main:
        say(line)
