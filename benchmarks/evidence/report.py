"""The results as JSON, as a table in Markdown, and as a plot of gains against steps of pre-training or labels."""

import json
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

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
    """A panel for each metric and readout: gains over random weights against steps if there are several, else labels.

    Without a random encoder the metric itself is drawn.
    """
    figure = import_for_picture("matplotlib.figure", path.name)
    if figure is None or not rows:
        return
    x_of = "steps" if len({row.group.steps for row in rows if row.group.steps}) > 1 else "percent"
    several = x_of == "steps" and len({row.group.percent for row in rows}) > 1
    shown = [_Curve.of(row, x_of, several=several) for row in sorted(rows, key=_order)]
    gains = any(row.gain for row in rows)
    metrics = list(dict.fromkeys(row.group.metric for row in rows))
    readouts = list(dict.fromkeys(row.group.readout for row in rows))
    styles = _styles(shown)
    page = figure.Figure(figsize=(4.2 * len(readouts), 3.4 * len(metrics)), layout="constrained")
    panels = page.subplots(len(metrics), len(readouts), squeeze=False)
    for metric, line in zip(metrics, panels, strict=True):
        for readout, axes in zip(readouts, line, strict=True):
            own = [point for point in shown if (point.row.group.metric, point.row.group.readout) == (metric, readout)]
            _draw_panel(axes, own, styles, gains=gains)
            axes.set(title=f"{metric}, {readout}", xscale="log")
            axes.set_xlabel("steps of pre-training" if x_of == "steps" else "% of the labels")
            axes.set_ylabel("gain over random weights" if gains else "")
            ticks = sorted({point.x for point in shown if point.x})
            axes.set_xticks(ticks, [f"{tick:,g}" for tick in ticks], minor=False)
            if len(ticks) > 1:  # also where a panel has few of the points
                axes.set_xlim(0.85 * ticks[0], ticks[-1] / 0.85)
            axes.minorticks_off()
    found = (pair for line in panels for a in line for pair in zip(*a.get_legend_handles_labels(), strict=True))
    handles = {text: handle for handle, text in found}
    page.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize="small")
    with whole_file(path) as file:
        page.savefig(file, format="png", dpi=110)


class _Curve(NamedTuple):
    """A point of a curve."""

    row: Row
    name: str
    x: float
    """0 for an arm without pre-training where steps are the axis: it is a horizontal line."""

    @classmethod
    def of(cls, row: Row, x_of: str, *, several: bool) -> "_Curve":
        """The point of a row; with several shares of the labels each has a curve of its own."""
        group = row.group
        return cls(row, f"{group.arm}, {group.percent:g} %" if several else group.arm, getattr(group, x_of))


def _styles(points: Sequence[_Curve]) -> dict[str, dict[str, Any]]:
    """A colour for each arm and a dash for each share of the labels, by curve, the same in all panels."""
    arms = list(dict.fromkeys(point.row.group.arm for point in points))
    dashes = dict(zip(sorted({point.row.group.percent for point in points}), cycle(["-", "--", ":", "-."])))
    styles = {}
    for point in points:
        arm, percent = point.row.group.arm, point.row.group.percent
        styles[point.name] = {
            "color": f"C{arms.index(arm)}", "linestyle": dashes[percent] if point.name != arm else "-",
        }  # fmt: skip
    return styles


def _draw_panel(axes: Any, points: Sequence[_Curve], styles: dict[str, dict[str, Any]], *, gains: bool) -> None:
    if gains:
        axes.axhline(0, label=RANDOM, color="0.4", linewidth=1)
    for name in dict.fromkeys(point.name for point in points):
        own = sorted((point for point in points if point.name == name), key=lambda point: point.x)
        estimates = [point.row.gain if gains else point.row.mean for point in own]
        if None in estimates:  # the random encoder itself
            continue
        _draw_curve(axes, [point.x for point in own], estimates, name, styles[name])


def _draw_curve(axes: Any, xs: Sequence[float], estimates: Sequence[Any], name: str, style: dict[str, Any]) -> None:
    values = [one.value for one in estimates]
    ends = [(one.value, one.value) if one.low is None else (one.low, one.high) for one in estimates]
    lows, highs = zip(*ends, strict=True)
    if not xs[0]:
        axes.axhline(values[0], label=name, **style, linewidth=1)
        axes.axhspan(lows[0], highs[0], color=style["color"], alpha=0.08)
        return
    axes.plot(xs, values, marker="o", markersize=3, label=name, **style)
    if len(xs) == 1:  # has no area
        axes.vlines(xs, lows, highs, color=style["color"], linewidth=1)
    axes.fill_between(xs, lows, highs, color=style["color"], alpha=0.15)
