"""What a fine-tuned network leaves behind: ``results.json``, ``predictions.csv`` and pictures of how well it does."""

import csv
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evaluation.metrics import Auroc, means_of, missing_class
from evaluation.segmentation import CaseScore
from utils.atomic import whole_file
from utils.errors import UserError
from utils.optional import import_optional

RESULTS, PREDICTIONS = "results.json", "predictions.csv"
ROC, OVERLAYS = "roc.png", "overlays.png"
TRUTH_COLOUR, PREDICTION_COLOUR = "lime", "red"


def describe_auroc(found: Auroc, labels: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """AUROC and its interval, class by class, with how many positives and negatives it rests on."""
    counts = {
        name: {"positives": int((column == 1).sum()), "negatives": int((column == 0).sum())}
        for name, column in zip(names, labels.T, strict=True)
    }
    return {
        "mean_auroc": found.mean._asdict() if found.mean else None,
        "auroc": {name: {**value._asdict(), **counts[name]} for name, value in found.per_class.items()},
        "without_auroc": {name: {"reason": reason, **counts[name]} for name, reason in found.missing.items()},
    }


def describe_segmentation(
    scores: Sequence[CaseScore], regions: Sequence[str], *, patients: Sequence[str], seed: int
) -> dict[str, Any]:
    """Dice and distance of every region with their intervals over patients, and how empty regions were counted.

    Dice is 0 where only the truth or only the prediction has the region, and left out of the mean where neither has.
    The distance is left out of the mean where either has none.
    """
    dice, distance = (np.array([getattr(s, name) for s in scores]) for name in ("dice", "distance"))
    truth, predicted = (np.array([getattr(s, name) for s in scores]) > 0 for name in ("truth", "predicted"))
    found: dict[str, Any] = {}
    for name, values in (("dice", dice), ("hd95", distance)):
        each, mean = means_of(values, patients, seed=seed)
        found[f"mean_{name}"] = mean._asdict() if mean else None
        found[name] = {
            region: {**(value._asdict() if value else {"value": None}), "cases": int(np.isfinite(column).sum())}
            for region, value, column in zip(regions, each, values.T, strict=True)
        }
    found["empty_regions"] = {
        region: {"in_both": int((~t & ~p).sum()), "missed": int((t & ~p).sum()), "invented": int((~t & p).sum())}
        for region, t, p in zip(regions, truth.T, predicted.T, strict=True)
    }
    return found


def write_case_scores(path: Path, names: Sequence[str], scores: Sequence[CaseScore], regions: Sequence[str]) -> None:
    """One line a case: Dice and distance of each region; what is not there is empty.

    Args:
        path: the file.
        names: N, of the cases.
        scores: N.
        regions: K names.
    """
    columns = [f"{kind}_{region}" for kind in ("dice", "hd95") for region in regions]
    with whole_file(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["name", *columns])
        for name, score in zip(names, scores, strict=True):
            numbers = (*score.dice, *score.distance)
            writer.writerow([name, *("" if math.isnan(x) else f"{x:.6f}" for x in numbers)])


def write_results(output: Path, results: Mapping[str, Any]) -> None:
    """``results.json``; comes last, so that where it is, the test is done."""
    with whole_file(output / RESULTS, "w") as file:
        json.dump(results, file, indent=1, allow_nan=False)
        file.write("\n")


def write_predictions(
    path: Path, samples: Sequence[str], scores: np.ndarray, labels: np.ndarray, names: Sequence[str]
) -> None:
    """One line a sample: its name, its probabilities and its labels; a label that nobody knows is empty.

    Args:
        path: the file.
        samples: N names.
        scores: N K in 0..1.
        labels: N K.
        names: K, of the classes.
    """
    with whole_file(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["name", *names, *(f"label_{name}" for name in names)])
        for sample, row, truth in zip(samples, scores.tolist(), labels.tolist(), strict=True):
            writer.writerow([sample, *(f"{p:.6f}" for p in row), *("" if math.isnan(t) else int(t) for t in truth)])


def draw_roc(path: Path, scores: np.ndarray, labels: np.ndarray, names: Sequence[str], found: Auroc) -> None:
    """The ROC curve of every class that has one; without matplotlib there is a line on stderr in place of a picture."""
    try:
        figures = import_optional("matplotlib.figure", ROC)
    except UserError as error:
        print(error, file=sys.stderr)
        return
    metrics = import_optional("sklearn.metrics", ROC)
    figure = figures.Figure(figsize=(7, 7), layout="constrained")
    axes = figure.add_subplot(
        xlabel="false positive rate", ylabel="true positive rate", aspect="equal", title="ROC curves of the test part"
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
    """One slice of a case, as pictures show it."""

    name: str
    image: np.ndarray
    """H W in 0..1."""
    truth: np.ndarray
    """bool, K H W."""
    predicted: np.ndarray
    """bool, K H W."""


def draw_overlays(path: Path, overlays: Sequence[Overlay], regions: Sequence[str]) -> None:
    """Borders of truth and prediction on slices, a row a case and a column a region; without matplotlib a line."""
    try:
        figures = import_optional("matplotlib.figure", OVERLAYS)
    except UserError as error:
        print(error, file=sys.stderr)
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
