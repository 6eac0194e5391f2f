"""Draws ``curves.png`` from ``metrics.jsonl``: one small plot for each number that a run records."""

import importlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.recorder import Recorder
from utils.atomic import whole_file
from utils.optional import import_for_picture

FILE = "curves.png"
# Not plotted: the axis, values that are nearly always 0, and β, which is a function of the epoch.
LEFT_OUT = ("epoch", "beta", "data_wait_share", "skipped_steps", "bad_samples")
TITLES = {"projection_spread": "spread of projections", "samples_per_second": "samples a second"}
COLUMNS = 4
PANEL = (3.0, 2.2)  # inches


def series_of(lines: Sequence[Mapping[str, Any]]) -> dict[str, tuple[list[int], list[float]]]:
    """(epochs, values) of every number in the lines of ``metrics.jsonl``, without values that are not finite."""
    series: dict[str, tuple[list[int], list[float]]] = {}
    for line in lines:
        for name, value in line.items():
            if name not in LEFT_OUT and isinstance(value, int | float) and math.isfinite(value):
                epochs, values = series.setdefault(name, ([], []))
                epochs.append(int(line["epoch"]))
                values.append(float(value))
    return series


def draw_curves(lines: Sequence[Mapping[str, Any]]) -> Any | None:
    """A matplotlib Figure with one plot for each number, None without matplotlib; pyplot's global state is not used."""
    # Imported here, since matplotlib is optional.
    figures = import_for_picture("matplotlib.figure", FILE)
    if figures is None:
        return None
    ticker = importlib.import_module("matplotlib.ticker")
    series = series_of(lines)
    rows = max(1, math.ceil(len(series) / COLUMNS))
    figure = figures.Figure(figsize=(COLUMNS * PANEL[0], rows * PANEL[1]), dpi=100, layout="constrained")
    panels = figure.subplots(rows, COLUMNS, squeeze=False).flat
    for panel, (name, (epochs, values)) in zip(panels, series.items(), strict=False):
        # Markers, since a line does not show a single point.
        panel.plot(epochs, values, marker="o" if len(epochs) < 20 else "", markersize=3)
        panel.set_title(TITLES.get(name, name.replace("_", " ")), fontsize=10)
        panel.set_xlabel("epoch", fontsize=8)
        panel.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.3)
    for panel in list(figure.axes)[len(series) :]:
        panel.set_visible(False)
    return figure


def write_curves(lines: Sequence[Mapping[str, Any]], path: Path) -> bool:
    """Draw the curves into a PNG; without matplotlib print a line on stderr and return False.

    Raises:
        UserError: the file cannot be written.
    """
    figure = draw_curves(lines)
    if figure is None:
        return False
    agg = importlib.import_module("matplotlib.backends.backend_agg")
    canvas = agg.FigureCanvasAgg(figure)
    with whole_file(path) as file:
        canvas.print_png(file)
    return True


class CurvePictures:
    """Writes ``curves.png`` every ``every`` epochs and after the last; without matplotlib prints one line instead."""

    def __init__(self, recorder: Recorder, *, every: int, epochs: int) -> None:
        self.recorder, self.every, self.epochs = recorder, every, epochs
        self.has_matplotlib = True

    def __call__(self, epoch: int, batch: Any) -> None:
        due = epoch % self.every == 0 or epoch == self.epochs
        if self.recorder.active and due and self.has_matplotlib:
            self.has_matplotlib = write_curves(self.recorder.metric_lines(), self.recorder.output / FILE)
