"""Measure every stage of the program and its yardstick in the same run, and write a table, JSON and a chart.

python -m benchmarks.speed [--only STAGE ...] [--repeats N] [--out DIR] [--quick]
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from benchmarks.speed.report import CHART_FILE, JSON_FILE, describe_machine, draw_chart, table, write_json
from benchmarks.speed.results import BenchmarkSettings, Result
from utils.arguments import OneLineParser, number
from utils.errors import UserError, run_command

PROGRAM = "python -m benchmarks.speed"

# One thread in the numerical libraries; stages that use all cores set torch's threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def stage(name: str) -> Callable[[BenchmarkSettings], list[Result]]:
    """The measurements of a stage; imported when needed, since most need packages that others do without."""
    return lambda settings: import_module(f"benchmarks.speed.{name}").measure(settings)


STAGES = {
    name: stage(name)
    for name in (
        "preprocess", "images", "views2d", "views3d", "fresh", "loader", "step", "startup", "launches", "memory", "gpu",
    )
}  # fmt: skip
REPEATS = 7


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the options; a wrong one ends the program with one line and status 2."""
    parser = OneLineParser(
        prog=PROGRAM,
        description="Measure every stage of the program beside its yardstick. Takes minutes.",
    )  # fmt: skip
    parser.add_argument("--only", nargs="+", choices=STAGES, metavar="STAGE", help=f"some of {', '.join(STAGES)}")
    parser.add_argument("--repeats", type=number(int, 1, 1000), default=REPEATS, help="of which the median is reported")
    parser.add_argument("--out", default="runs/benchmarks", help=f"folder for {JSON_FILE} and {CHART_FILE}")
    parser.add_argument("--quick", action="store_true", help="tiny inputs, to test that it runs; not for timings")
    return parser.parse_args(arguments)


def measure(stages: Sequence[str], *, repeats: int, quick: bool) -> list[Result]:
    """Measure the stages, each in a temporary folder of its own."""
    results: list[Result] = []
    for name in stages:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="benchmarks_") as folder:
            results += STAGES[name](BenchmarkSettings(Path(folder), repeats, quick))
        print(f"{name}: measured in {time.perf_counter() - began:.0f} s", file=sys.stderr)
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, then print the table and write JSON and chart; returns the exit status."""
    options = parse_arguments(arguments)
    out = Path(options.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out: cannot make {out}: {error.strerror or error}") from error
    results = measure(options.only or list(STAGES), repeats=options.repeats, quick=options.quick)
    about = {"quick": options.quick, "repeats": options.repeats, "machine": describe_machine()}
    write_json(out / JSON_FILE, results, about)
    print(table(results))
    if not draw_chart(out / CHART_FILE, results):
        print("no chart: matplotlib is not installed (requirements-dev.txt)", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run_command(main, PROGRAM)
