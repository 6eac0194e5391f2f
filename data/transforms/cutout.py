"""Cutout: set random squares of an image to 0, which the network must restore."""

import torch
from torch import Tensor

SQUARES, SIDE = 3, 32  # side in pixels


def draw_cutout(n: int, size: int, generator: torch.Generator) -> Tensor:
    """Draw the centres (row, column) of the squares uniformly over the pixels: int64, N 3 2."""
    centres = torch.rand(n, SQUARES, 2, generator=generator, device=generator.device) * size
    return centres.long()


def apply_cutout(images: Tensor, centres: Tensor) -> Tensor:
    """Set the squares around ``centres`` (N 3 2) of N C size size to 0, clipped at the border; in place.

    On a CPU, square by square; on a GPU, by one mask, since copying the centres to the host would make it wait.
    """
    if images.device.type != "cpu":
        return images.mul_(cutout_mask(centres, images.shape[-1]).unsqueeze(1))
    half = SIDE // 2
    for image, squares in zip(images.numpy(), centres.tolist(), strict=True):
        for row, column in squares:
            image[:, max(0, row - half) : row + half, max(0, column - half) : column + half] = 0
    return images


def cutout_mask(centres: Tensor, size: int) -> Tensor:
    """Mask for ``centres`` (N 3 2), float N size size: 0 in squares of side 32, clipped at the border, 1 elsewhere."""
    pixels = torch.arange(size, device=centres.device)
    from_centre = pixels - centres.unsqueeze(3)
    within = ((from_centre >= -(SIDE // 2)) & (from_centre < SIDE // 2)).float()
    rows, columns = within.unbind(2)
    return (torch.bmm(rows.transpose(1, 2), columns) == 0).float()
