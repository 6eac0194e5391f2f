"""Report measurements as a table, as JSON and as a chart."""

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.results import Measurement, Result, Skipped
from utils.atomic import whole_file
from utils.cores import available_cores
from utils.provenance import describe_program

JSON_FILE, CHART_FILE = "benchmarks.json", "benchmarks.png"
MARKS = {True: "met", False: "missed", None: ""}


def describe_machine() -> dict[str, Any]:
    """Describe the machine and the program versions."""
    return {
        "processor": _processor(),
        "cores": available_cores(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        **describe_program(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def write_json(path: Path, results: Sequence[Result], about: dict[str, Any]) -> None:
    """Write all measurements with their ratios, those skipped, and ``about`` the run."""
    figures = [{**r._asdict(), "faster": r.faster, "met": r.met} for r in results if isinstance(r, Measurement)]
    skipped = [r._asdict() for r in results if isinstance(r, Skipped)]
    with whole_file(path, "w") as file:
        json.dump({**about, "figures": figures, "skipped": skipped}, file, indent=1)
        file.write("\n")


def table(results: Sequence[Result]) -> str:
    """Format a Markdown table, one line per measurement, and a line for each one skipped."""
    head = [("stage", "", "ours", "yardstick", "", "ratio", "target", ""), ("---",) * 8]
    rows = [_row(result) for result in results if isinstance(result, Measurement)]
    left_out = [f"{r.stage}: {r.what}: not measured, {r.why}" for r in results if isinstance(r, Skipped)]
    return "\n".join([*(f"| {' | '.join(cells)} |" for cells in [*head, *rows]), *left_out])


def _row(f: Measurement) -> tuple[str, ...]:
    ours = f"{f.ours:,.0f}" if f.ours >= 1000 else f"{f.ours:.3g}"
    ours = f"{ours} {f.unit}".strip()
    mark = MARKS[f.met]
    if f.faster is None:
        return f.stage, f.what, ours, "", "", "", f"≤ {f.at_most:g} {f.unit}" if f.at_most is not None else "", mark
    theirs = f"{f.theirs:.3g} {f.unit}".strip()
    if f.at_most is None:
        ratio, target = f"{f.faster:.2f} times as fast", f"≥ {f.at_least:g}" if f.at_least else ""
    else:
        ratio, target = f"{1 / f.faster:.2f} of it", f"≤ {f.at_most:g}"
    return f.stage, f.what, ours, f.yardstick or "", theirs, ratio, target, mark


def draw_chart(path: Path, results: Sequence[Result]) -> bool:
    """Draw each measurement's speed relative to its yardstick, with its target; returns False without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    compared = [(f, f.faster) for f in results if isinstance(f, Measurement) and f.faster is not None][::-1]
    page = Figure(figsize=(10, 1.4 + 0.42 * len(compared)), layout="constrained")
    axes = page.subplots()
    colours = ["#b5482f" if f.met is False else "#3b6ea5" for f, _ in compared]
    bars = axes.barh([f"{f.what}\nbeside {f.yardstick}" for f, _ in compared], [x for _, x in compared], color=colours)
    axes.bar_label(bars, fmt="%.2f", padding=3)
    for i, (f, _) in enumerate(compared):
        target = f.at_least or (1 / f.at_most if f.at_most else None)
        if target:
            axes.plot([target, target], [i - 0.45, i + 0.45], color="black", lw=2, label="target" if not i else None)
    axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.axvline(1, color="grey", lw=0.8, ls=":")
    axes.set_xlabel("times as fast as the yardstick; black: the target, red: missed")
    axes.tick_params(axis="y", labelsize=8)
    page.savefig(path, dpi=120)
    return True
