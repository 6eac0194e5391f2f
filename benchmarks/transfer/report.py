"""The results as a table of means with 95 % intervals, as JSON and as a plot."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.transfer.jobs import Job, arms
from benchmarks.transfer.scores import METRICS
from utils.atomic import whole_file
from utils.optional import import_optional

TABLE, SUMMARY, PLOT = "transfer.md", "transfer.json", "transfer.png"


class Mean(NamedTuple):
    """A mean over seeds and half its 95 % interval (Student's t), NaN of a single seed."""

    value: float
    half: float
    seeds: int


class Row(NamedTuple):
    """One arm's metric at one share of the labels."""

    metric: str
    encoder: str
    method: str
    percent: float
    mean: Mean
    gain: Mean | None
    """Over the random encoder read out in the same way with the same seeds; None for the random one itself."""


def mean_of(values: Sequence[float]) -> Mean:
    """Mean and half its 95 % interval."""
    n = len(values)
    if n < 2:
        return Mean(values[0], math.nan, n)
    from scipy import stats

    return Mean(statistics.fmean(values), float(stats.t.ppf(0.975, n - 1)) * statistics.stdev(values) / math.sqrt(n), n)


def summarize(results: Mapping[Job, Mapping[str, float]], baseline: str) -> list[Row]:
    """One row for each metric, arm and share of the labels that has results."""
    rows = []
    for metric in METRICS:
        for encoder, method in arms(list(results)):
            for percent in sorted({job.percent for job in results}):
                own = {j: n[metric] for j, n in results.items()
                       if (j.encoder, j.method, j.percent) == (encoder, method, percent) and metric in n}  # fmt: skip
                if not own:
                    continue
                pairs = [(v, results.get(j._replace(encoder=baseline), {}).get(metric)) for j, v in own.items()]
                gains = [v - b for v, b in pairs if b is not None]
                gain = mean_of(gains) if gains and encoder != baseline else None
                rows.append(Row(metric, encoder, method, percent, mean_of(list(own.values())), gain))
    return rows


def table(rows: Sequence[Row]) -> str:
    """Markdown: a line for each metric and arm, a column for each share; the gain over random in brackets."""
    percents = sorted({row.percent for row in rows})
    head = ["metric", "encoder", "", *(f"{p:g} %" for p in percents)]
    lines = [head, ["---"] * len(head)]
    for metric, encoder, method in dict.fromkeys((r.metric, r.encoder, r.method) for r in rows):
        cells = {r.percent: r for r in rows if (r.metric, r.encoder, r.method) == (metric, encoder, method)}
        lines.append([metric, encoder, method, *(_cell(cells.get(p)) for p in percents)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    text = f"{row.mean.value:.3f} ± {row.mean.half:.3f}"
    return text if row.gain is None else f"{text} ({row.gain.value:+.3f} ± {row.gain.half:.3f})"


def write_report(out: Path, rows: Sequence[Row]) -> None:
    """Table, JSON and plot."""
    entries = [{**r._asdict(), "mean": r.mean._asdict(), "gain": r.gain._asdict() if r.gain else None} for r in rows]
    with whole_file(out / SUMMARY, "w") as file:
        json.dump(entries, file, indent=1)
        file.write("\n")
    with whole_file(out / TABLE, "w") as file:
        file.write(table(rows) + "\n")
    page = import_optional("matplotlib.figure", PLOT).Figure(figsize=(5 * len(METRICS), 6), layout="constrained")
    for axes, metric in zip(page.subplots(1, len(METRICS)), METRICS, strict=True):
        mine = [r for r in rows if r.metric == metric]
        for encoder, method in dict.fromkeys((r.encoder, r.method) for r in mine):
            line = [r for r in mine if (r.encoder, r.method) == (encoder, method)]
            axes.errorbar(
                [r.percent for r in line], [r.mean.value for r in line], [r.mean.half for r in line], capsize=3,
                label=f"{encoder}, {method}", linestyle="--" if method == "frozen" else "-",
            )  # fmt: skip
        axes.set(xscale="log", xlabel="% of the labels", title=metric)
    page.legend(*page.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    with whole_file(out / PLOT) as file:
        page.savefig(file, format="png", dpi=110)
