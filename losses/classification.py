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


def windowed_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of volumes, whose logits are the means of those of their windows; a scalar.

    With a linear last layer this is the classification of the windows' mean features.

    Args:
        logits: B·W K, all windows of the first volume first.
        labels: B K, 0 or 1, NaN where unlabelled.
    """
    return known_cross_entropy(logits.unflatten(0, (len(labels), -1)).mean(dim=1), labels)


def balanced_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of the binary cross-entropies of positives and of negatives, whatever their numbers; a scalar.

    Args:
        logits: B K, before the sigmoid.
        labels: B K, 0 or 1.
    """
    each = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    kinds = [each[labels == kind].mean() for kind in (0, 1) if (labels == kind).any()]
    return torch.stack(kinds).mean() if kinds else each.sum()
