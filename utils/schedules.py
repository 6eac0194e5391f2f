"""The two schedules of the method, both half a cosine over epochs, and an optional warm-up."""

import math

# The published program fades the intermediate restoration over 240 epochs for any value of ``--epochs``.
FADE_EPOCHS = 240


def learning_rate(epoch: int, epochs: int, peak: float) -> float:
    """Learning rate of an epoch: ``peak`` at epoch 0, 0 at epoch ``epochs`` (which is run too)."""
    return peak * 0.5 * (1.0 + math.cos(math.pi * epoch / epochs)) if epochs else peak


def restoration_weight(epoch: int) -> float:
    """Weight β of the intermediate restoration: 1 at epoch 0, 0 at epoch 240."""
    return 0.5 * (1.0 + math.cos(math.pi * epoch / FADE_EPOCHS))


def warmup_factor(epochs_done: float, warmup_epochs: float) -> float:
    """What the learning rate is multiplied with: it rises linearly to 1 over the first ``warmup_epochs``.

    Args:
        epochs_done: epochs after the step that the rate is for, so that the first step has a rate above 0.
        warmup_epochs: length of the warm-up, which need not be whole; 0 for none, as published.
    """
    return min(1.0, epochs_done / warmup_epochs) if warmup_epochs else 1.0
