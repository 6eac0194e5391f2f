"""Random swaps of patches within a volume, as TorchIO's RandomSwap; the network must restore the original."""

import itertools
from collections.abc import Sequence
from operator import mul

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.constants import constant

PATCH = (8, 4, 4)  # voxels
SWAPS = 100  # as published, for crops of 64×64×32 voxels, a fifth of which they cover
# Draws of the second patch of a swap, of which the first that does not overlap the other patch is used. In a crop of
# 32×32×16 voxels, 8 % of draws overlap; all 8 do in one swap of 10^9, which then changes nothing.
TRIES = 8


def draw_swaps(n: int, shape: torch.Size, generator: torch.Generator, count: int = SWAPS) -> Tensor:
    """Draw the first voxels of the two patches of each swap, uniform and not overlapping: int64, N count 2 3."""
    device = generator.device
    free = constant([max(length - patch, 0) for length, patch in zip(shape, PATCH, strict=True)], device, torch.int64)
    starts = torch.rand(n, count, 1 + TRIES, 3, generator=generator, device=device)
    starts = (starts * free).long()
    first, seconds = starts[:, :, :1], starts[:, :, 1:]
    apart = ((seconds - first).abs() >= constant(PATCH, device, torch.int64)).any(dim=3)
    chosen = apart.int().argmax(dim=2, keepdim=True)
    second = seconds.gather(2, chosen.unsqueeze(3).expand(-1, -1, -1, 3))
    second = torch.where(apart.any(dim=2)[..., None, None], second, first)
    return torch.cat([first, second], dim=2)


def apply_swaps(volumes: Tensor, swaps: Tensor) -> Tensor:
    """Apply the swaps (N S 2 3) to N X Y Z one after the other; a volume smaller than a patch is not changed.

    On a CPU, swap by swap; on a GPU, all at once, since each operation is a launch.
    """
    _, x, y, z = volumes.shape
    if any(length < patch for length, patch in zip((x, y, z), PATCH, strict=True)):
        return volumes
    voxels = voxels_of(swaps, (x, y, z))
    if volumes.device.type != "cpu":
        return swap_at_once(volumes, voxels)
    flat = volumes.flatten(1).clone()
    for pair in voxels.transpose(0, 1):
        flat.scatter_(1, pair.flatten(1), flat.gather(1, pair.flip(1).flatten(1)))
    return flat.view_as(volumes)


def voxels_of(swaps: Tensor, shape: Sequence[int]) -> Tensor:
    """N S 2 128: index of each voxel of the two patches of each swap (N S 2 3) in a flattened volume X Y Z."""
    strides = (shape[1] * shape[2], shape[2], 1)
    starts = (swaps * constant(strides, swaps.device, torch.int64)).sum(dim=3, keepdim=True)
    inside = [sum(map(mul, at, strides)) for at in itertools.product(*map(range, PATCH))]
    return starts + constant(inside, swaps.device, torch.int64)


def swap_at_once(volumes: Tensor, voxels: Tensor) -> Tensor:
    """Swap the voxels of N X Y Z, given as by :func:`voxels_of`, in a number of operations that does not depend on S.

    A swap writes to every voxel of its two patches. It writes what the other patch held there before, which is what the
    latest earlier write to that place had written, or the original voxel. So each write points to an earlier one, and
    following the pointers leads to the original voxel.
    """
    count = voxels.shape[1]
    total = volumes.numel()
    volume_starts = torch.arange(0, total, volumes[0].numel(), device=volumes.device)
    places = voxels + volume_starts.view(-1, 1, 1, 1)
    times = torch.arange(count, device=volumes.device).view(-1, 1, 1)
    # By place, and at each place in the order of the swaps.
    keys, writes = torch.sort((places * count + times).flatten())
    by_place = keys.div_(count, rounding_mode="floor")
    again = by_place[1:] == by_place[:-1]
    unmoved = torch.full_like(writes, -1)
    earlier = unmoved.scatter(0, writes[1:], torch.where(again, writes[:-1], unmoved[1:]))
    before_partner = earlier.view_as(places).flip(2).flatten()
    origin = torch.where(before_partner < 0, torch.arange(len(writes), device=volumes.device), before_partner)
    # Each time, pointers reach twice as far back.
    for _ in range((count - 1).bit_length()):
        origin = origin.index_select(0, origin)
    sources = places.flip(2).flatten().index_select(0, origin)
    flat = volumes.reshape(-1)
    # The last write to a place remains; the others go to an additional place after the last volume.
    targets = torch.where(F.pad(again, (0, 1)), total, by_place)
    swapped = F.pad(flat, (0, 1)).scatter_(0, targets, flat[sources[writes]])
    return swapped[:total].view_as(volumes)
