"""Evaluate a classifier on the validation split: its loss, which chooses the best epoch, and its AUROC."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evaluation.metrics import auroc, missing_class
from evaluation.predictions import Predictions
from utils.errors import UserError
from utils.optional import import_optional

Loss = Callable[[Tensor, Tensor], Tensor]
"""Maps (logits, labels) to a scalar."""


def loss_of(predictions: Predictions, loss: Loss) -> float | None:
    """Return the loss over a split, or None if no sample has a label, since the loss would then be 0."""
    labels = torch.from_numpy(predictions.labels)
    return None if labels.isnan().all() else loss(torch.from_numpy(predictions.values), labels).item()


def validation_numbers(
    predictions: Predictions, classes: Sequence[str], patients: Sequence[str], loss: Loss
) -> dict[str, Any]:
    """Return ``valid_loss``, ``thresholds`` of :func:`choose_thresholds` and, if a class has an AUROC, ``valid_auroc``.

    Args:
        predictions: logits for the validation split.
        classes: K names.
        patients: patient ID of each sample of the split.
        loss: maps (logits, labels) to a scalar.

    Raises:
        UserError: no sample of the split has a label.
    """
    found = loss_of(predictions, loss)
    if found is None:
        raise UserError(
            f"expected labels in the validation split, {len(predictions.indices)} samples have none; check the "
            "table of labels, or give a smaller --ratio"
        )
    patient_ids = [patients[i] for i in predictions.indices]
    mean = auroc(predictions.values, predictions.labels, classes, patients=patient_ids, seed=0, replicates=0).mean
    thresholds = choose_thresholds(predictions, classes)
    return {"valid_loss": found, "thresholds": thresholds} | ({"valid_auroc": mean.value} if mean else {})


def choose_thresholds(predictions: Predictions, classes: Sequence[str]) -> dict[str, float]:
    """Choose for each class the probability from which on it counts as found: that of the largest Youden's J.

    J is sensitivity + specificity − 1 (Youden, Cancer 1950). A threshold lies midway between two probabilities. A class
    without positives or negatives has none, nor has one whose J is nowhere above 0.
    """
    roc_curve = import_optional("sklearn.metrics", "classification").roc_curve
    probabilities = torch.from_numpy(predictions.values).double().sigmoid().numpy()
    chosen = {}
    for name, scores, labels in zip(classes, probabilities.T, predictions.labels.T, strict=True):
        known = ~np.isnan(labels)
        if missing_class(labels):
            continue
        false, true, values = roc_curve(labels[known], scores[known], drop_intermediate=False)
        best = int(np.argmax(true - false))
        if true[best] > false[best]:
            below = values[best + 1] if best + 1 < len(values) else 0.0
            chosen[name] = float((values[best] + below) / 2)
    return chosen
