"""Write ``results.json`` and ``predictions.csv`` into a run's folder."""

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
    """Write one row per case with Dice and distance of each region; undefined values are empty.

    Args:
        path: the file to write.
        names: N names of the cases.
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
    """Write ``results.json``, the last file of a run: if it exists, the test split has been evaluated."""
    with whole_file(output / RESULTS, "w") as file:
        json.dump(results, file, indent=1, allow_nan=False)
        file.write("\n")


def write_predictions(
    path: Path, samples: Sequence[str], scores: np.ndarray, labels: np.ndarray, names: Sequence[str]
) -> None:
    """Write one row per sample with its name, probabilities and labels; an unknown label is empty.

    Args:
        path: the file to write.
        samples: N names.
        scores: N K in 0..1.
        labels: N K.
        names: K names of the classes.
    """
    with whole_file(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["name", *names, *(f"label_{name}" for name in names)])
        for sample, row, truth in zip(samples, scores.tolist(), labels.tolist(), strict=True):
            writer.writerow([sample, *(f"{p:.6f}" for p in row), *("" if math.isnan(t) else int(t) for t in truth)])
