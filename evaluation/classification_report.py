"""Report a classification on the test split: predictions, ROC curves and their areas."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evaluation.classification import Loss, loss_of
from evaluation.metrics import Auroc, auroc
from evaluation.pictures import draw_roc
from evaluation.predictions import Predictions
from evaluation.results import PREDICTIONS, ROC, write_predictions


def describe_auroc(found: Auroc, labels: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Return AUROC and interval of each class, with its numbers of positives and negatives."""
    counts = {
        name: {"positives": int((column == 1).sum()), "negatives": int((column == 0).sum())}
        for name, column in zip(names, labels.T, strict=True)
    }
    return {
        "mean_auroc": found.mean._asdict() if found.mean else None,
        "auroc": {name: {**value._asdict(), **counts[name]} for name, value in found.per_class.items()},
        "without_auroc": {name: {"reason": reason, **counts[name]} for name, reason in found.missing.items()},
    }


def report_classification(
    predictions: Predictions, classes: Sequence[str], patients: Sequence[str], loss: Loss, *,
    name: Callable[[int], str], seed: int, output: Path,
) -> dict[str, Any]:  # fmt: skip
    """Write predictions and ROC curves; return the entries for ``results.json``.

    Args:
        predictions: logits for the test split.
        classes: K names.
        patients: patient ID of each sample of the split.
        loss: maps (logits, labels) to a scalar.
        name: returns the name of a sample.
        seed: seed of the bootstrap.
        output: the run's folder.
    """
    scores, labels = torch.from_numpy(predictions.values).sigmoid().numpy(), predictions.labels
    patient_ids = [patients[i] for i in predictions.indices]
    found = auroc(scores, labels, classes, patients=patient_ids, seed=seed)
    write_predictions(output / PREDICTIONS, [name(i) for i in predictions.indices], scores, labels, classes)
    draw_roc(output / ROC, scores, labels, classes, found)
    for missing, reason in found.missing.items():
        print(f"{missing}: {reason} in the test split, no AUROC", file=sys.stderr)
    if found.mean:
        print(f"test: mean AUROC {found.mean}", file=sys.stderr)
    return {
        "test_images": len(predictions.indices),
        "test_patients": len(set(patient_ids)),
        "test_loss": loss_of(predictions, loss),
        **describe_auroc(found, labels, classes),
    }
