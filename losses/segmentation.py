"""Losses of segmentation, as pure functions of tensors."""

import torch.nn.functional as F
from torch import Tensor

# Weight of cross-entropy relative to Dice, as published.
CROSS_ENTROPY_WEIGHT = 0.2
# Voxels added to numerator and denominator, so that a region absent from a batch has a loss and a gradient.
SMOOTH = 1.0


def soft_dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Soft Dice loss of each region, K: 1 − (2 Σ p t + 1) / (Σ p + Σ t + 1), summed over the batch and all voxels.

    The sums include the batch since most crops contain no voxel of a small region, for which a Dice per crop is of
    little use.

    Args:
        logits: B K *S, before the sigmoid.
        masks: B K *S, 0 or 1.
    """
    p, t = logits.sigmoid().transpose(0, 1).flatten(1), masks.to(logits.dtype).transpose(0, 1).flatten(1)
    return 1 - (2 * (p * t).sum(dim=1) + SMOOTH) / (p.sum(dim=1) + t.sum(dim=1) + SMOOTH)


def dice_and_cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    """Sum over the regions of soft Dice + 0.2 · binary cross-entropy, a scalar; shapes as in :func:`soft_dice_loss`."""
    each = F.binary_cross_entropy_with_logits(logits, masks.to(logits.dtype), reduction="none")
    cross_entropy = each.transpose(0, 1).flatten(1).mean(dim=1)
    return (soft_dice_loss(logits, masks) + CROSS_ENTROPY_WEIGHT * cross_entropy).sum()
