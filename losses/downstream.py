"""Losses of fine-tuning, as pure functions of tensors."""

import torch
import torch.nn.functional as F
from torch import Tensor


def known_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy, the mean over the labels that are known; 0 where none is.

    Args:
        logits: B K, before the sigmoid.
        labels: B K, 0 or 1, NaN where nobody knows.
    """
    known = ~labels.isnan()
    each = F.binary_cross_entropy_with_logits(logits, torch.where(known, labels, 0.0), reduction="none")
    return torch.where(known, each, 0.0).sum() / known.sum().clamp(min=1)
