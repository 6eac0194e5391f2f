"""Pictures of an evaluation: ROC curves and masks on slices; without matplotlib, a line on stderr instead."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from evaluation.metrics import Auroc, missing_class
from utils.atomic import whole_file
from utils.optional import import_for_picture, import_optional

TRUTH_COLOUR, PREDICTION_COLOUR = "lime", "red"


def draw_roc(path: Path, scores: np.ndarray, labels: np.ndarray, names: Sequence[str], found: Auroc) -> None:
    """Draw the ROC curve of every class that has one.

    Args:
        path: the file to write.
        scores: N K.
        labels: N K of 0 and 1, NaN where unlabelled.
        names: K names of the classes.
        found: areas under the curves.
    """
    figures = import_for_picture("matplotlib.figure", path.name)
    if figures is None:
        return
    metrics = import_optional("sklearn.metrics", path.name)
    figure = figures.Figure(figsize=(7, 7), layout="constrained")
    axes = figure.add_subplot(
        xlabel="false positive rate", ylabel="true positive rate", aspect="equal", title="ROC curves of the test split"
    )
    axes.plot([0, 1], [0, 1], color="0.7", linestyle=":", label="chance")
    for k, name in enumerate(names):
        if missing_class(labels[:, k]):
            continue
        known = ~np.isnan(labels[:, k])
        false, true, _ = metrics.roc_curve(labels[known, k], scores[known, k])
        axes.plot(false, true, label=f"{name}  {found.per_class[name].value:.3f}")
    axes.legend(fontsize="small", loc="lower right")
    with whole_file(path) as file:
        figure.savefig(file, format="png", dpi=120)


class Overlay(NamedTuple):
    """One slice of a case to draw."""

    name: str
    image: np.ndarray
    """H W in 0..1."""
    truth: np.ndarray
    """bool, K H W."""
    predicted: np.ndarray
    """bool, K H W."""


def draw_overlays(path: Path, overlays: Sequence[Overlay], regions: Sequence[str]) -> None:
    """Draw the borders of truth and prediction on slices, one row per case and one column per region."""
    figures = import_for_picture("matplotlib.figure", path.name)
    if figures is None:
        return
    rows, columns = len(overlays), len(regions)
    figure = figures.Figure(figsize=(3 * columns, 3.2 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for row, overlay in zip(panels, overlays, strict=True):
        for axes, region, truth, predicted in zip(row, regions, overlay.truth, overlay.predicted, strict=True):
            axes.imshow(overlay.image, cmap="gray", vmin=0, vmax=1)
            for mask, colour in ((truth, TRUTH_COLOUR), (predicted, PREDICTION_COLOUR)):
                if mask.any() and not mask.all() and min(mask.shape) > 1:
                    axes.contour(mask, levels=[0.5], colors=colour, linewidths=1)
            axes.set_title(f"{overlay.name}: {region}", fontsize="small")
            axes.set_axis_off()
    figure.suptitle(f"truth {TRUTH_COLOUR}, prediction {PREDICTION_COLOUR}", fontsize="medium")
    with whole_file(path) as file:
        figure.savefig(file, format="png", dpi=120)
