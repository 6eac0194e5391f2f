"""How a classifier is judged: by loss and AUROC after every epoch, and on the test part with all that it leaves."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evaluation.metrics import auroc
from evaluation.predictions import Predictions
from evaluation.results import PREDICTIONS, ROC, describe_auroc, draw_roc, write_predictions

Loss = Callable[[Tensor, Tensor], Tensor]


def validation_numbers(
    said: Predictions, classes: Sequence[str], patients: Sequence[str], loss: Loss
) -> dict[str, float]:
    """The loss, which chooses the epoch, and the mean AUROC where there is one.

    Args:
        said: what the network says of the validation part.
        classes: K names.
        patients: of all its samples.
        loss: (logits, labels) to a scalar.
    """
    numbers = {"valid_loss": loss(torch.from_numpy(said.values), torch.from_numpy(said.labels)).item()}
    shown = [patients[i] for i in said.indices]
    found = auroc(said.values, said.labels, classes, patients=shown, seed=0, replicates=0)
    return numbers | ({"valid_auroc": found.mean.value} if found.mean else {})


def report_test(
    said: Predictions, classes: Sequence[str], patients: Sequence[str], loss: Loss, *, name: Callable[[int], str],
    seed: int, output: Path,
) -> dict[str, Any]:  # fmt: skip
    """Write predictions and ROC curves, and say what ``results.json`` does.

    Args:
        said, classes, patients, loss: as in :func:`validation_numbers`, of the test part.
        name: of a sample.
        seed: of the bootstrap.
        output: the run's folder.
    """
    logits, labels = torch.from_numpy(said.values), said.labels
    scores = logits.sigmoid().numpy()
    shown = [patients[i] for i in said.indices]
    found = auroc(scores, labels, classes, patients=shown, seed=seed)
    write_predictions(output / PREDICTIONS, [name(i) for i in said.indices], scores, labels, classes)
    draw_roc(output / ROC, scores, labels, classes, found)
    for missing, lack in found.missing.items():
        print(f"{missing}: {lack} in the test part, no AUROC", file=sys.stderr)
    if found.mean:
        print(f"test: mean AUROC {found.mean}", file=sys.stderr)
    return {
        "test_images": len(said.indices),
        "test_patients": len(set(shown)),
        "test_loss": loss(logits, torch.from_numpy(labels)).item(),
        **describe_auroc(found, labels, classes),
    }
