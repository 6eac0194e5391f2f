"""Random swaps of patches within a volume, as TorchIO's RandomSwap: the context to restore."""

import torch
from torch import Tensor

PATCH = (8, 4, 4)
SWAPS = 100
# The second patch of a swap is drawn so often, and the first draw that leaves the other patch alone is taken. In a crop
# of 32×32×16 voxels 8 % of draws overlap: all of 8 do in one swap of 10^9, which then does nothing.
TRIES = 8


def draw_swaps(n: int, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """N 100 2 3: first voxels of the two patches of each swap, uniform, not overlapping."""
    room = torch.tensor([max(length - patch, 0) for length, patch in zip(shape, PATCH, strict=True)])
    room = room.to(generator.device, non_blocking=True)
    starts = torch.rand(n, SWAPS, 1 + TRIES, 3, generator=generator, device=generator.device)
    starts = (starts * room).long()
    first, seconds = starts[:, :, :1], starts[:, :, 1:]
    patch = torch.tensor(PATCH).to(generator.device, non_blocking=True)
    apart = ((seconds - first).abs() >= patch).any(dim=3)
    chosen = apart.long().argmax(dim=2, keepdim=True)
    second = seconds.gather(2, chosen.unsqueeze(3).expand(-1, -1, -1, 3))
    second = torch.where(apart.any(dim=2)[..., None, None], second, first)
    return torch.cat([first, second], dim=2)


def apply_swaps(volumes: Tensor, swaps: Tensor) -> Tensor:
    """N X Y Z with the swaps done one after the other, N S 2 3; a volume smaller than a patch stays as it is."""
    _, x, y, z = volumes.shape
    if any(length < patch for length, patch in zip((x, y, z), PATCH, strict=True)):
        return volumes
    strides = torch.tensor([y * z, z, 1]).to(volumes.device, non_blocking=True)
    grids = torch.meshgrid(*(torch.arange(length, device=volumes.device) for length in PATCH), indexing="ij")
    inside = (torch.stack(grids, dim=-1).flatten(0, 2) * strides).sum(1)
    starts = (swaps * strides).sum(dim=3).transpose(0, 1)
    flat = volumes.flatten(1).clone()
    for pair in starts:
        there = (pair.unsqueeze(2) + inside).flatten(1)
        back = there.unflatten(1, (2, -1)).flip(1).flatten(1)
        flat.scatter_(1, there, flat.gather(1, back))
    return flat.view_as(volumes)
