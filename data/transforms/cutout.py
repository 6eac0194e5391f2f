"""Cutout: set random squares of an image to 0, which the network must restore."""

import torch
from torch import Tensor

SQUARES, SIDE = 3, 32  # side in pixels


def draw_cutout(n: int, size: int, generator: torch.Generator) -> Tensor:
    """Draw the centres (row, column) of the squares uniformly over the pixels: int64, N 3 2."""
    centres = torch.rand(n, SQUARES, 2, generator=generator, device=generator.device) * size
    return centres.long()


def apply_cutout(images: Tensor, centres: Tensor, side: int = SIDE) -> Tensor:
    """Set the squares around ``centres`` (N 3 2) of N C size size to 0, clipped at the border; in place.

    On a CPU, square by square; on a GPU, by one mask, since copying the centres to the host would make it wait.
    """
    if images.device.type != "cpu":
        return images.mul_(cutout_mask(centres, images.shape[-1], side).unsqueeze(1))
    half = side // 2
    for image, squares in zip(images.numpy(), centres.tolist(), strict=True):
        for row, column in squares:
            top, left = row - half, column - half
            image[:, max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)] = 0
    return images


def cutout_mask(centres: Tensor, size: int, side: int = SIDE) -> Tensor:
    """Mask for ``centres`` (N 3 2), float N size size: 0 in squares of ``side``, clipped at the border, 1 elsewhere."""
    pixels = torch.arange(size, device=centres.device)
    from_start = pixels - centres.unsqueeze(3) + side // 2
    within = ((from_start >= 0) & (from_start < side)).float()
    rows, columns = within.unbind(2)
    return (torch.bmm(rows.transpose(1, 2), columns) == 0).float()
