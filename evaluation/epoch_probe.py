"""The probe during pre-training: what the encoder's features hold so far, every few epochs."""

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evaluation.metrics import missing_class
from evaluation.predictions import Predictions, predict
from evaluation.probes import LinearProbe, knn_scores, missing_classes, probe_auroc
from utils.errors import UserError

# One of STRENGTHS, the same in every epoch: chosen anew each time, it would be chosen on what it is scored on.
STRENGTH = 1e-2


def require_labels(train: np.ndarray, valid: np.ndarray) -> None:
    """Some class must be there to be learnt and scored.

    Args:
        train, valid: N K and M K, labels of both splits.

    Raises:
        UserError: none is.
    """
    if all(missing_class(a) or missing_class(b) for a, b in zip(train.T, valid.T, strict=True)):
        raise UserError(
            f"--probe_every: expected a class with positives and negatives both among {len(train)} images to learn "
            f"from and {len(valid)} to be scored on, there is none; give a larger --probe_images"
        )


class EpochProbe:
    """Mean AUROC of both probes after every few epochs and the last; pre-training goes on as it would without.

    For one process alone: nothing here waits for another.

    Args:
        module: maps inputs, B C *S, to features, B F; shares the encoder that is trained.
        train, valid: batches to learn from and to be scored on, as often as asked: (indices of samples, raw batch).
        make_inputs: raw batch on the device to (inputs, labels).
        device: where the module is.
        classes: K names.
        patients: patient ID of each sample of ``valid``.
        neighbours: of kNN.
        every, epochs: how often, and the last epoch.
    """

    def __init__(
        self, module: nn.Module, *, train: Iterable[tuple[list[int], Any]], valid: Iterable[tuple[list[int], Any]],
        make_inputs: Callable[[Any], tuple[Tensor, Tensor]], device: torch.device, classes: Sequence[str],
        patients: Sequence[str], neighbours: int, every: int, epochs: int,
    ) -> None:  # fmt: skip
        self.module, self.train, self.valid = module, train, valid
        self.make_inputs, self.device = make_inputs, device
        self.classes, self.patients, self.neighbours = classes, patients, neighbours
        self.every, self.epochs = every, epochs

    def __call__(self, epoch: int) -> dict[str, float]:
        """``probe/knn_auroc`` and ``probe/linear_auroc`` of an epoch that is due; what has no number is left out."""
        if epoch % self.every and epoch != self.epochs:
            return {}
        train, valid = (
            predict(self.module, batches, self.make_inputs, self.device) for batches in (self.train, self.valid)
        )
        if not (train.usable() and valid.usable()):
            print(f"epoch {epoch}: no probe, the features are not finite or no image can be read", file=sys.stderr)
            return {}
        return self.numbers(train, valid)

    def numbers(self, train: Predictions, valid: Predictions) -> dict[str, float]:
        """Mean AUROC by name."""
        missing = missing_classes(train.labels, self.classes)
        scores = {
            "probe/knn_auroc": knn_scores(train, valid.values, neighbours=self.neighbours),
            "probe/linear_auroc": LinearProbe(train).fit(STRENGTH).scores(valid.values),
        }
        found = {name: probe_auroc(s, valid, self.classes, self.patients, missing).mean for name, s in scores.items()}
        return {name: mean.value for name, mean in found.items() if mean}
