"""Evaluate a classifier on the validation split: its loss, which chooses the best epoch, and its AUROC."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from evaluation.metrics import auroc
from evaluation.predictions import Predictions
from utils.errors import UserError

Loss = Callable[[Tensor, Tensor], Tensor]
"""Maps (logits, labels) to a scalar."""


def loss_of(predictions: Predictions, loss: Loss) -> float | None:
    """Return the loss over a split, or None if no sample has a label, since the loss would then be 0."""
    labels = torch.from_numpy(predictions.labels)
    return None if labels.isnan().all() else loss(torch.from_numpy(predictions.values), labels).item()


def validation_numbers(
    predictions: Predictions, classes: Sequence[str], patients: Sequence[str], loss: Loss
) -> dict[str, float]:
    """Return ``valid_loss`` and, if a class has an AUROC, their mean as ``valid_auroc``.

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
    return {"valid_loss": found} | ({"valid_auroc": mean.value} if mean else {})
