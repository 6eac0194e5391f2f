"""Probe the encoder's features every few epochs during pre-training."""

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

# One of STRENGTHS, the same in every epoch: choosing it at each probe would use the split that the probe is scored on.
STRENGTH = 1e-2


def require_labels(train: np.ndarray, valid: np.ndarray) -> None:
    """Require a class that can be learnt and scored.

    Args:
        train, valid: N K and M K, labels of both splits.

    Raises:
        UserError: no class has positives and negatives in both splits.
    """
    if all(missing_class(a) or missing_class(b) for a, b in zip(train.T, valid.T, strict=True)):
        raise UserError(
            f"--probe_every: expected a class with positives and negatives both among {len(train)} images to learn "
            f"from and {len(valid)} to be scored on, there is none; give a larger --probe_images"
        )


class EpochProbe:
    """Computes the mean AUROC of both probes every few epochs and after the last; pre-training is not affected.

    It runs on one process, without waiting for any other.

    Args:
        module: maps inputs, B C *S, to features, B F; shares the encoder that is trained.
        train, valid: batches to learn from and to be scored on, (indices of samples, raw batch); can be iterated again.
        make_inputs: maps a raw batch on the device to (inputs, labels).
        device: device of the module.
        classes: K names.
        patients: patient ID of each sample of ``valid``.
        neighbours: number of neighbours of kNN.
        every: epochs between two probes.
        epochs: the last epoch.
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
        """Return ``probe/knn_auroc`` and ``probe/linear_auroc`` if the epoch is due; undefined ones are left out."""
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
        """Return the mean AUROC of each probe by name."""
        missing = missing_classes(train.labels, self.classes)
        scores = {
            "probe/knn_auroc": knn_scores(train, valid.values, neighbours=self.neighbours),
            "probe/linear_auroc": LinearProbe(train).fit(STRENGTH).scores(valid.values),
        }
        found = {name: probe_auroc(s, valid, self.classes, self.patients, missing).mean for name, s in scores.items()}
        return {name: mean.value for name, mean in found.items() if mean}
