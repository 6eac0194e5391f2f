"""The two schedules of the method, both half a cosine over epochs."""

import math

# The published program fades the intermediate restoration over 240 epochs for any value of ``--epochs``.
FADE_EPOCHS = 240


def learning_rate(epoch: int, epochs: int, peak: float) -> float:
    """Learning rate of an epoch: ``peak`` at epoch 0, 0 at epoch ``epochs`` (which is run too)."""
    return peak * 0.5 * (1.0 + math.cos(math.pi * epoch / epochs)) if epochs else peak


def restoration_weight(epoch: int) -> float:
    """Weight β of the intermediate restoration: 1 at epoch 0, 0 at epoch 240."""
    return 0.5 * (1.0 + math.cos(math.pi * epoch / FADE_EPOCHS))
