"""Cutout: squares of an image set to 0, to be restored."""

import torch
from torch import Tensor

SQUARES, SIDE = 3, 32


def draw_cutout(n: int, size: int, generator: torch.Generator) -> Tensor:
    """N 3 2: centres (row, column) of the squares, uniform over the pixels."""
    centres = torch.rand(n, SQUARES, 2, generator=generator, device=generator.device) * size
    return centres.long()


def cutout_mask(centres: Tensor, size: int) -> Tensor:
    """N 3 2 to float N size size: 0 within the squares of side 32, clipped at the border, 1 elsewhere."""
    pixels = torch.arange(size, device=centres.device)
    from_centre = pixels - centres.unsqueeze(3)
    within = ((from_centre >= -(SIDE // 2)) & (from_centre < SIDE // 2)).float()
    rows, columns = within.unbind(2)
    return (torch.bmm(rows.transpose(1, 2), columns) == 0).float()
