"""How good a classifier is on the validation split: its loss, which chooses the epoch, and its AUROC."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from evaluation.metrics import auroc
from evaluation.predictions import Predictions
from utils.errors import UserError

Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits, labels) to a scalar."""


def loss_of(predictions: Predictions, loss: Loss) -> float | None:
    """The loss over a split; None where it has no label, since a loss of nothing would be 0."""
    labels = torch.from_numpy(predictions.labels)
    return None if labels.isnan().all() else loss(torch.from_numpy(predictions.values), labels).item()


def validation_numbers(
    predictions: Predictions, classes: Sequence[str], patients: Sequence[str], loss: Loss
) -> dict[str, float]:
    """The loss, and the mean AUROC where there is one.

    Args:
        predictions: logits for the validation split.
        classes: K names.
        patients: patient ID of each of its samples.
        loss: (logits, labels) to a scalar.

    Raises:
        UserError: no label is known.
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
