"""Loss of segmentation, as a pure function of tensors."""

import torch.nn.functional as F
from torch import Tensor

# As published: what cross-entropy counts beside Dice.
CROSS_ENTROPY_SHARE = 0.2
# Added above and below, in voxels, so that a region that is nowhere in a batch has a loss and a gradient.
SMOOTH = 1.0


def soft_dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """1 − 2 Σ p t / (Σ p + Σ t) of each region, K; sums run over the batch and all voxels.

    Over the batch, since most crops of a small region hold none of it: alone, such a crop says little of the overlap.

    Args:
        logits: B K *S, before the sigmoid.
        masks: B K *S, 0 or 1.
    """
    p, t = logits.sigmoid().transpose(0, 1).flatten(1), masks.to(logits.dtype).transpose(0, 1).flatten(1)
    return 1 - (2 * (p * t).sum(dim=1) + SMOOTH) / (p.sum(dim=1) + t.sum(dim=1) + SMOOTH)


def dice_and_cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    """Σ over the regions of soft Dice + 0.2 · binary cross-entropy; shapes as in :func:`soft_dice_loss`."""
    each = F.binary_cross_entropy_with_logits(logits, masks.to(logits.dtype), reduction="none")
    cross_entropy = each.transpose(0, 1).flatten(1).mean(dim=1)
    return (soft_dice_loss(logits, masks) + CROSS_ENTROPY_SHARE * cross_entropy).sum()
