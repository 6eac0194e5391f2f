"""What has been computed for each file, kept line by line, so that a stopped run computes only what is left."""

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.atomic import whole_file
from utils.errors import UserError

SETTINGS = "run.json"
FOLDER = "finished"


class PredictionLog:
    """Adds a line of JSON for each finished file to a file of this process; lines of all processes are read.

    Args:
        output: the run's folder.
        rank: of this process.
    """

    def __init__(self, output: Path, rank: int) -> None:
        self.folder = output / FOLDER
        self.path = self.folder / f"process_{rank}.jsonl"

    def add(self, rows: Mapping[str, Sequence[float]]) -> None:
        """Add the numbers of files by their names; they are on the disk when this returns.

        Raises:
            UserError: the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                # A line that a kill cut short ends here.
                file.writelines(f"\n{json.dumps([name, list(numbers)])}" for name, numbers in rows.items())
        except OSError as error:
            raise UserError(f"--output: cannot write {self.path}: {error.strerror or error}") from None

    def read(self) -> dict[str, np.ndarray]:
        """Return the numbers of all finished files by name, those of all processes of all runs in this folder."""
        finished: dict[str, np.ndarray] = {}
        for path in sorted(self.folder.glob("process_*.jsonl")):
            for line in path.read_text("utf-8", errors="replace").splitlines():
                try:
                    name, numbers = json.loads(line)
                except ValueError:  # empty, or cut short by a kill: predicted again
                    continue
                finished[name] = np.array(numbers, dtype=np.float64)
        return finished


def require_same_run(output: Path, settings: Mapping[str, Any]) -> None:
    """Require that the folder is new, or that of a run with the same settings.

    Args:
        output: the run's folder.
        settings: plain values that determine the results.

    Raises:
        UserError: it is of another phase, or a setting differs.
    """
    path = output / SETTINGS
    if not path.exists():
        return
    try:
        before = json.loads(path.read_text("utf-8")).get("settings", {})
    except (ValueError, AttributeError):
        before = {}
    differing = [name for name, value in settings.items() if before.get(name) != value]
    if differing:
        name = differing[0]
        raise UserError(
            f"--output: {output} has another run, whose {name} is {before.get(name)!r}, not {settings[name]!r}; give "
            "another folder"
        )


def write_table(
    path: Path, columns: Sequence[str], rows: Iterable[tuple[str, Sequence[float | None]]]
) -> None:  # fmt: skip
    """Write one row per file, its name and numbers; undefined numbers are empty."""
    with whole_file(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["name", *columns])
        for name, numbers in rows:
            writer.writerow([name, *map(_shown, numbers)])


def _shown(number: float | None) -> str:
    return "" if number is None or math.isnan(number) else f"{number:.6f}".rstrip("0").rstrip(".")
