"""Command lines whose errors are one line."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Says each option's default, but for options that have none."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


class OneLineParser(argparse.ArgumentParser):
    """argparse without the page of usage before each error, and without prefixes of options."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_Help, **settings)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def nearest_multiples(value: int, of: int) -> str:
    """The multiples that a value lies between, for an error: ``32 or 64``; 0 is none."""
    below = value // of * of
    return f"{below} or {below + of}" if below else f"{of}"


def path(text: str) -> str:
    """A path for ``type=`` of an argument: ``~`` means home, which a shell does not expand in ``--output=~/x``."""
    try:
        return str(Path(text).expanduser())
    except RuntimeError:
        raise argparse.ArgumentTypeError(
            f"expected a path, got {text!r}, of a user that this machine does not know"
        ) from None


def number(kind: type, low: float, high: float, *, open_low: bool = False) -> Callable[[str], Any]:
    """A parser of numbers in [low, high], or (low, high], for ``type=`` of an argument."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None
        if not low <= value <= high or (open_low and value == low):
            above = "above" if open_low else "from"
            raise argparse.ArgumentTypeError(f"expected a number {above} {low:g} to {high:g}, got {text}")
        return value

    return parse
