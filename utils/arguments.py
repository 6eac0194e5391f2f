"""Command lines whose errors are one line."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from utils.provenance import describe_version


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Says each option's default, but for options that have none."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


class _Version(argparse.Action):
    """Prints what program this is; the revision is looked up only when asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        print(describe_version())
        parser.exit()


class OneLineParser(argparse.ArgumentParser):
    """argparse with errors of one line, without prefixes of options, and with ``-`` for ``_`` in their names."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_Help, **settings)
        self.add_argument("--version", action=_Version, nargs=0, default=argparse.SUPPRESS, help="print it and exit")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse, but for options such as ``--batch-size``, which are taken for ``--batch_size``."""
        typed = sys.argv[1:] if args is None else list(args)
        known = {name.replace("_", "-"): name for name in self._option_string_actions}
        return super().parse_known_args([self._as_declared(word, known) for word in typed], namespace)

    def _as_declared(self, word: str, known: dict[str, str]) -> str:
        name, equals, value = word.partition("=")
        if not name.startswith("--") or name in self._option_string_actions:
            return word
        return known.get(name.replace("_", "-"), name) + equals + value

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
