"""What a check prints and keeps: the table, what is left out and why, and whether a run would start."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from checks.sheet import Shown, save_sheet
from checks.tally import table
from data.catalog.folder_xrays import RECORD, SHEET
from data.catalog.joins import SHOWN
from utils.atomic import whole_file
from utils.progress import say


def show(text: str) -> None:
    """Print on stdout, whatever its encoding and however files are named."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def print_left_out(notes: Sequence[str], broken: Mapping[str, str], flat: Sequence[str] = ()) -> None:
    """Print what was joined and left out while the data was opened, and the first of what cannot be read."""
    for line in notes:
        show(f"- {line}")
    if broken:
        show(f"- broken: {len(broken)}, all in {RECORD}; the first:")
        for reason in list(dict.fromkeys(broken.values()))[:SHOWN]:
            show(f"    {' '.join(reason.splitlines())}")
    if flat:
        show(f"- of one value only, as empty images: {', '.join(flat)}")


def fail(folder: Path, notes: Sequence[str], problem: str) -> int:
    """Print and keep why a run would fail before it reads a file; returns the exit status."""
    print_left_out(notes, {})
    return finish(folder, columns={}, record={"notes": list(notes)}, samples=(), caption="", problem=problem)


def finish(
    folder: Path, *, columns: dict[str, dict[str, str]], record: dict[str, Any], samples: Sequence[Shown],
    caption: str, problem: str | None, start: str = "a run would start",
) -> int:  # fmt: skip
    """Print the table and the verdict, write picture and record; returns the exit status.

    Args:
        folder: for ``check.png`` and ``check.json``.
        columns: of the table.
        record: what ``check.json`` holds beside the verdict.
        samples: those of the picture; none for no picture.
        caption: what the picture shows.
        problem: why a run would fail; None if it would not.
        start: the verdict if it would not.
    """
    verdict = start if problem is None else f"a run would fail: {' '.join(problem.splitlines())}"
    if columns:
        show(table(columns))
    if samples:
        save_sheet(folder / SHEET, caption, samples)
        say(f"{folder / SHEET}: {len(samples)} samples as the network sees them: {caption}")
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / RECORD, "w") as file:
        json.dump(record | {"verdict": verdict}, file, indent=1)
    show(verdict)
    return 0 if problem is None else 1
