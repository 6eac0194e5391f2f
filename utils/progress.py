"""Report the progress of long work: a bar on a terminal; elsewhere, as in a log file, a line about every minute."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

# Seconds until the first line, so that short work prints nothing, and between later lines.
FIRST_LINE_SECONDS, LINE_SECONDS = 10.0, 60.0


def on_terminal() -> bool:
    """Whether stderr is a terminal, where bars can be drawn; in a file each update would stay."""
    return sys.stderr.isatty()


def say(text: str) -> None:
    """Print a line on stderr, above any bars."""
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()


def duration(seconds: float) -> str:
    """Format seconds as ``12:05`` (minutes and seconds), ``3:12:05`` with hours, ``2 d 03:12:05`` with days."""
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
    """Yield the items and report progress on stderr.

    Args:
        items: the items; one counts as done when the next is requested.
        name: the name of the work.
        unit: the name of what is counted, in the singular.
        total: the number of units; by default that of the items, if known.
        units_each: units per item; the last item may have fewer.
        keep_bar: whether the bar stays on the terminal afterwards.
        active: whether to report; False in processes other than the main one.
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
    next_line, reported = started + FIRST_LINE_SECONDS, False
    units = 0
    for done, item in enumerate(items, 1):
        yield item
        units, now = _units(done, units_each, total), time.monotonic()
        if now >= next_line and units != total:
            say(f"{name}: {_status(units, total, unit, now - started)}")
            next_line, reported = now + LINE_SECONDS, True
    if reported:
        say(f"{name}: {units} {unit}s in {duration(time.monotonic() - started)}")


def _units(items: int, units_each: int, total: int | None) -> int:
    return items * units_each if total is None else min(items * units_each, total)


def _status(units: int, total: int | None, unit: str, seconds: float) -> str:
    rate = units / seconds
    if total is None:
        return f"{units} {unit}s, {rate:.3g} {unit}s/s"
    return f"{units} of {total} {unit}s, {rate:.3g} {unit}s/s, {duration((total - units) / rate)} left"
