"""What a fine-tuned classifier leaves behind: ``results.json``, ``predictions.csv`` and ``roc.png``."""

import csv
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.metrics import Auroc, lacks
from models.export import needed
from utils.atomic import whole_file
from utils.errors import UserError

RESULTS, PREDICTIONS, ROC = "results.json", "predictions.csv", "roc.png"


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
        figures = needed("matplotlib.figure", ROC)
    except UserError as error:
        print(error, file=sys.stderr)
        return
    metrics = needed("sklearn.metrics", ROC)
    figure = figures.Figure(figsize=(7, 7), layout="constrained")
    axes = figure.add_subplot(
        xlabel="false positive rate", ylabel="true positive rate", aspect="equal", title="ROC curves of the test part"
    )
    axes.plot([0, 1], [0, 1], color="0.7", linestyle=":", label="chance")
    for k, name in enumerate(names):
        if lacks(labels[:, k]):
            continue
        known = ~np.isnan(labels[:, k])
        false, true, _ = metrics.roc_curve(labels[known, k], scores[known, k])
        axes.plot(false, true, label=f"{name}  {found.per_class[name].value:.3f}")
    axes.legend(fontsize="small", loc="lower right")
    with whole_file(path) as file:
        figure.savefig(file, format="png", dpi=120)
