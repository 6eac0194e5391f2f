"""Numbers that are kept one line each as they come, so that a run that was cut short goes on where it was."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

Numbers = Mapping[str, float]


class Key(Protocol):
    """A NamedTuple: what the numbers are of."""

    def _asdict(self) -> dict[str, Any]: ...


K = TypeVar("K", bound=Key)


def read_lines(file: Path, kind: type[K]) -> dict[K, Numbers]:
    """What was kept so far; a last line that was cut short is left out."""
    found = {}
    for line in file.read_text("utf-8").splitlines() if file.exists() else ():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[kind(**entry["of"])] = entry["numbers"]
    return found


def keep(file: Path, key: Key, numbers: Numbers) -> None:
    """Append one line."""
    cut_short = file.exists() and not file.read_bytes().endswith(b"\n") and file.stat().st_size > 0
    with open(file, "a", encoding="utf-8") as lines:
        lines.write(("\n" if cut_short else "") + json.dumps({"of": key._asdict(), "numbers": numbers}) + "\n")


def keep_each(file: Path, keys: Sequence[K], numbers: Iterable[Numbers]) -> dict[K, Numbers]:
    """Append a line for each key as soon as its numbers are there."""
    found = {}
    for key, its in zip(keys, numbers, strict=True):
        keep(file, key, its)
        found[key] = its
    return found
