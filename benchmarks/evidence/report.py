"""The results as JSON, as a table in Markdown, and as a plot of gains against steps of pre-training or labels."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.evidence.scores import Row
from benchmarks.evidence.settings import FLOOR, RANDOM
from evaluation.metrics import Estimate
from utils.atomic import whole_file
from utils.optional import import_for_picture

JSON, TABLE, PLOT = "evidence.json", "evidence.md", "evidence.png"


def write_report(out: Path, rows: Sequence[Row], about: dict[str, Any]) -> None:
    """Write ``evidence.json``, ``evidence.md`` and, where matplotlib is installed, ``evidence.png``."""
    entries = [
        {**row.group._asdict(), "mean": row.mean._asdict(), "gain": row.gain and row.gain._asdict(), "draws": row.draws}
        for row in rows
    ]
    with whole_file(out / JSON, "w") as file:
        json.dump({"about": about, "results": entries}, file, indent=1)
        file.write("\n")
    with whole_file(out / TABLE, "w") as file:
        file.write(table(rows) + "\n")
    draw_plot(out / PLOT, rows)


def table(rows: Sequence[Row]) -> str:
    """Markdown: a line for each metric, readout and arm, a column for each share of the labels; gains in brackets."""
    percents = sorted({row.group.percent for row in rows})
    head = ["metric", "readout", "encoder", "steps", *(f"{percent:g} %" for percent in percents)]
    lines = [head, ["---"] * len(head)]
    keys = dict.fromkeys(
        (r.group.metric, r.group.readout, r.group.arm, r.group.steps) for r in sorted(rows, key=_order)
    )
    cells = {(*key, row.group.percent): _cell(row) for row in rows for key in [row.group[:4]]}
    for metric, readout, arm, steps in keys:
        own = [cells.get((metric, arm, steps, readout, percent), "") for percent in percents]
        lines.append([metric, readout, arm, f"{steps:,}" if steps else "", *own])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _order(row: Row) -> tuple[str, str, int, str, int]:
    group = row.group
    return group.metric, group.readout, {FLOOR: 0, RANDOM: 1}.get(group.arm, 2), group.arm, group.steps


def _cell(row: Row) -> str:
    text = f"{row.mean.value:.3f} {_interval(row.mean, '')}"
    return text if row.gain is None else f"{text} ({row.gain.value:+.3f} {_interval(row.gain, '+')})"


def _interval(estimate: Estimate, sign: str) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f"[{estimate.low:{sign}.3f}, {estimate.high:{sign}.3f}]"


def draw_plot(path: Path, rows: Sequence[Row]) -> None:
    """A panel for each metric and readout: the metric against steps if there are several, else against labels."""
    figure = import_for_picture("matplotlib.figure", path.name)
    if figure is None or not rows:
        return
    lengths = {row.group.steps for row in rows if row.group.steps}
    x_of = "steps" if len(lengths) > 1 else "percent"
    metrics = list(dict.fromkeys(row.group.metric for row in rows))
    readouts = list(dict.fromkeys(row.group.readout for row in rows))
    page = figure.Figure(figsize=(4.2 * len(readouts), 3.4 * len(metrics)), layout="constrained")
    panels = page.subplots(len(metrics), len(readouts), squeeze=False)
    for metric, line in zip(metrics, panels, strict=True):
        for readout, axes in zip(readouts, line, strict=True):
            own = [row for row in rows if (row.group.metric, row.group.readout) == (metric, readout)]
            _draw_panel(axes, own, x_of)
            axes.set(title=f"{metric}, {readout}", xscale="log")
            axes.set_xlabel("steps of pre-training" if x_of == "steps" else "% of the labels")
    handles = {
        text: handle
        for line in panels
        for a in line
        for handle, text in zip(*a.get_legend_handles_labels(), strict=True)
    }
    page.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize="small")
    with whole_file(path) as file:
        page.savefig(file, format="png", dpi=110)


def _draw_panel(axes: Any, rows: Sequence[Row], x_of: str) -> None:
    """One line for each arm; an arm without pre-training is a horizontal line where steps are the axis."""
    percents = sorted({row.group.percent for row in rows})
    arms = list(dict.fromkeys(row.group.arm for row in sorted(rows, key=_order)))
    for number, arm in enumerate(arms):
        for percent in percents if x_of == "steps" else [None]:
            own = sorted(
                (r for r in rows if r.group.arm == arm and percent in (None, r.group.percent)),
                key=lambda row: getattr(row.group, x_of),
            )  # fmt: skip
            name = arm if percent is None or len(percents) == 1 else f"{arm}, {percent:g} %"
            style = {
                "color": f"C{number}",
                "linestyle": ["-", "--", ":", "-."][percents.index(percent) % 4] if percent else "-",
            }
            values = [row.mean.value for row in own]
            if x_of == "steps" and own and not own[0].group.steps:
                axes.axhline(values[0], label=name, **style, linewidth=1)
                axes.axhspan(
                    own[0].mean.low or values[0], own[0].mean.high or values[0], color=f"C{number}", alpha=0.08
                )
                continue
            xs = [getattr(row.group, x_of) for row in own]
            axes.plot(xs, values, marker="o", markersize=3, label=name, **style)
            lows, highs = ([getattr(row.mean, end) or row.mean.value for row in own] for end in ("low", "high"))
            axes.fill_between(xs, lows, highs, color=f"C{number}", alpha=0.15)
