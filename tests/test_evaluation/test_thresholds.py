"""The thresholds that validation chooses."""

import numpy as np
import pytest

from evaluation.classification import choose_thresholds
from evaluation.predictions import Predictions

NAN = float("nan")


def test_thresholds_by_hand():
    probabilities = np.array([0.1, 0.3, 0.4, 0.6, 0.8])
    labels = np.array(
        [[0, 0, 1, 1, 0], [0, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, NAN, 0, 1, 1], [0, 1, NAN, NAN, NAN]], dtype=np.float32
    ).T
    logits = np.repeat(np.log(probabilities / (1 - probabilities))[:, None], 5, axis=1).astype(np.float32)
    found = choose_thresholds(Predictions(list(range(5)), logits, labels), ["two", "none", "reversed", "last", "pair"])
    # Neither a class without positives nor one whose positives all come before its negatives has a threshold.
    assert found == {
        name: pytest.approx(value, abs=1e-6) for name, value in {"two": 0.35, "last": 0.5, "pair": 0.2}.items()
    }
