"""Options declared once: a dataclass whose fields carry what the parser, the refusals, resuming and the docs need."""

import argparse
import dataclasses
from collections.abc import Iterable
from typing import Any, NamedTuple

from utils.arguments import OneLineParser

DECLARED = "declared"


class Declared(NamedTuple):
    """What is said of an option, beside its name and type."""

    group: str
    """The heading it stands under in ``--help``."""
    help: str
    aliases: tuple[str, ...]
    phases: tuple[str, ...]
    """The phases that use it; empty for all."""
    datasets: tuple[str, ...]
    """The data sets that use it; empty for all."""
    dim: int | None
    """The dimension that uses it; None for both."""
    goes_with: str | None
    """An option of a phase that this one is for only beside it: it brings that phase to those above."""
    may_change: bool
    """Whether it may differ when a run is resumed."""
    argument: dict[str, Any]
    """What argparse is given: type, choices, nargs, action, metavar."""


def option(
    group: str, help: str, *, default: Any = dataclasses.MISSING, aliases: tuple[str, ...] = (),
    phases: Iterable[str] = (), datasets: Iterable[str] = (), dim: int | None = None, goes_with: str | None = None,
    may_change: bool = False, **argument: Any,
) -> Any:  # fmt: skip
    """A field of a dataclass of options; without ``default`` it must be typed. See :class:`Declared`."""
    declared = Declared(
        group, help, aliases, tuple(phases), tuple(datasets), dim, goes_with, may_change, argument
    )  # fmt: skip
    return dataclasses.field(default=default, metadata={DECLARED: declared})


def switch(group: str, help: str, *, default: bool, **facts: Any) -> Any:
    """An option that is on or off: ``--NAME`` and ``--no-NAME``."""
    return option(group, help, default=default, action=argparse.BooleanOptionalAction, **facts)


def declarations(kind: type) -> dict[str, Declared]:
    """The options of a dataclass, by name."""
    return {field.name: field.metadata[DECLARED] for field in dataclasses.fields(kind)}


def defaults(kind: type) -> dict[str, Any]:
    """The defaults of those that have one."""
    return {f.name: f.default for f in dataclasses.fields(kind) if f.default is not dataclasses.MISSING}


def add_options(parser: OneLineParser, kind: type) -> None:
    """Give a parser the options of a dataclass, group by group."""
    groups: dict[str, argparse._ArgumentGroup] = {}
    known = defaults(kind)
    for name, declared in declarations(kind).items():
        if declared.group not in groups:
            groups[declared.group] = parser.add_argument_group(declared.group)
        given = {"default": known[name]} if name in known else {"required": True}
        groups[declared.group].add_argument(
            f"--{name}", *declared.aliases, help=declared.help, **given, **declared.argument
        )  # fmt: skip
