"""Losses of classification, as pure functions of tensors."""

import torch
import torch.nn.functional as F
from torch import Tensor


def known_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross-entropy over the known labels; a scalar, 0 where no label is known.

    Args:
        logits: B K, before the sigmoid.
        labels: B K, 0 or 1, NaN where unlabelled.
    """
    known = ~labels.isnan()
    each = F.binary_cross_entropy_with_logits(logits, torch.where(known, labels, 0.0), reduction="none")
    return torch.where(known, each, 0.0).sum() / known.sum().clamp(min=1)


def balanced_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of the binary cross-entropies of positives and of negatives, whatever their numbers; a scalar.

    Args:
        logits: B K, before the sigmoid.
        labels: B K, 0 or 1.
    """
    each = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    kinds = [each[labels == kind].mean() for kind in (0, 1) if (labels == kind).any()]
    return torch.stack(kinds).mean() if kinds else each.sum()
