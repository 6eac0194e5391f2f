"""Random swaps of patches within a volume, as TorchIO's RandomSwap; the network must restore the original."""

import torch
from torch import Tensor

PATCH = (8, 4, 4)  # voxels
SWAPS = 100  # as published, for crops of 64×64×32 voxels, a fifth of which they cover
# Draws of the second patch of a swap, of which the first that does not overlap the other patch is used. In a crop of
# 32×32×16 voxels, 8 % of draws overlap; all 8 do in one swap of 10^9, which then changes nothing.
TRIES = 8


def draw_swaps(n: int, shape: torch.Size, generator: torch.Generator, count: int = SWAPS) -> Tensor:
    """Draw the first voxels of the two patches of each swap, uniform and not overlapping: int64, N count 2 3."""
    free = torch.tensor([max(length - patch, 0) for length, patch in zip(shape, PATCH, strict=True)])
    free = free.to(generator.device, non_blocking=True)
    starts = torch.rand(n, count, 1 + TRIES, 3, generator=generator, device=generator.device)
    starts = (starts * free).long()
    first, seconds = starts[:, :, :1], starts[:, :, 1:]
    patch = torch.tensor(PATCH).to(generator.device, non_blocking=True)
    apart = ((seconds - first).abs() >= patch).any(dim=3)
    chosen = apart.long().argmax(dim=2, keepdim=True)
    second = seconds.gather(2, chosen.unsqueeze(3).expand(-1, -1, -1, 3))
    second = torch.where(apart.any(dim=2)[..., None, None], second, first)
    return torch.cat([first, second], dim=2)


def apply_swaps(volumes: Tensor, swaps: Tensor) -> Tensor:
    """Apply the swaps (N S 2 3) to N X Y Z one after the other; a volume smaller than a patch is not changed."""
    _, x, y, z = volumes.shape
    if any(length < patch for length, patch in zip((x, y, z), PATCH, strict=True)):
        return volumes
    strides = torch.tensor([y * z, z, 1]).to(volumes.device, non_blocking=True)
    grids = torch.meshgrid(*(torch.arange(length, device=volumes.device) for length in PATCH), indexing="ij")
    inside = (torch.stack(grids, dim=-1).flatten(0, 2) * strides).sum(1)
    starts = (swaps * strides).sum(dim=3).transpose(0, 1)
    flat = volumes.flatten(1).clone()
    for pair in starts:
        target = (pair.unsqueeze(2) + inside).flatten(1)
        source = target.unflatten(1, (2, -1)).flip(1).flatten(1)
        flat.scatter_(1, target, flat.gather(1, source))
    return flat.view_as(volumes)
