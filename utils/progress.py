"""How far long work has come: a bar on a terminal; elsewhere, as in a log file, a line about every minute."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

# Work that is done sooner says nothing; then a line comes as soon as this has passed since the last one.
FIRST_LINE_SECONDS, LINE_SECONDS = 10.0, 60.0


def on_terminal() -> bool:
    """Whether bars can be drawn: a file would keep each of their states."""
    return sys.stderr.isatty()


def say(text: str) -> None:
    """A line on stderr, above the bars that are drawn there."""
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()


def duration(seconds: float) -> str:
    """``12:05`` minutes and seconds, ``3:12:05`` with hours, ``2 d 03:12:05`` with days."""
    days, rest = divmod(round(seconds), 86400)
    hours, rest = divmod(rest, 3600)
    clock = f"{rest // 60:02d}:{rest % 60:02d}"
    if days:
        return f"{days} d {hours:02d}:{clock}"
    return f"{hours}:{clock}" if hours else clock


def progress(
    items: Iterable[Item], *, name: str, unit: str, total: int | None = None, units_each: int = 1,
    keep_bar: bool = True, active: bool = True,
) -> Iterator[Item]:  # fmt: skip
    """The items, and how far they have come, on stderr.

    Args:
        items: what is worked through; an item counts as done when the next one is asked for.
        name: of the work.
        unit: what is counted, in the singular.
        total: units in all; unset: as many as there are items, where that is known.
        units_each: units an item; the last one may have fewer.
        keep_bar: whether the bar stays on the terminal afterwards.
        active: False for the processes that say nothing.
    """
    if total is None and isinstance(items, Sized):
        total = len(items) * units_each
    if not active:
        yield from items
    elif on_terminal():
        with tqdm(total=total, desc=name, unit=unit, leave=keep_bar, dynamic_ncols=True) as bar:
            for done, item in enumerate(items, 1):
                yield item
                bar.update(_units(done, units_each, total) - bar.n)
    else:
        yield from _with_lines(items, name, unit, total, units_each)


def _with_lines(items: Iterable[Item], name: str, unit: str, total: int | None, units_each: int) -> Iterator[Item]:
    started = time.monotonic()
    next_line, said = started + FIRST_LINE_SECONDS, False
    units = 0
    for done, item in enumerate(items, 1):
        yield item
        units, now = _units(done, units_each, total), time.monotonic()
        if now >= next_line and units != total:
            say(f"{name}: {_how_far(units, total, unit, now - started)}")
            next_line, said = now + LINE_SECONDS, True
    if said:
        say(f"{name}: {units} {unit}s in {duration(time.monotonic() - started)}")


def _units(items: int, units_each: int, total: int | None) -> int:
    return items * units_each if total is None else min(items * units_each, total)


def _how_far(units: int, total: int | None, unit: str, seconds: float) -> str:
    rate = units / seconds
    if total is None:
        return f"{units} {unit}s, {rate:.3g} {unit}s/s"
    return f"{units} of {total} {unit}s, {rate:.3g} {unit}s/s, {duration((total - units) / rate)} left"
