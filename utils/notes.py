"""Lines on stderr that one process of several prints."""

from utils.progress import say
from utils.world import read_world


def note(line: str) -> None:
    """Print a line on stderr, in the main process alone: all of them find the same out."""
    if read_world().is_main:
        say(line)
