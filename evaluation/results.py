"""What evaluation writes into a run's folder: ``results.json`` and ``predictions.csv``."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.segmentation import CaseScore
from utils.atomic import whole_file

RESULTS, PREDICTIONS = "results.json", "predictions.csv"
ROC, OVERLAYS = "roc.png", "overlays.png"


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
    """One line a sample: its name, its probabilities and its labels; an unknown label is empty.

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
