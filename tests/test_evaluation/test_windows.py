"""Windows over whole images overlap by half, and have the highest weight in their centre."""

import itertools

import pytest
import torch
from torch import nn

from evaluation.segmentation import Inference, window_logits

CPU = torch.device("cpu")


class Numbered(nn.Module):
    """Returns 0 for the whole first window, 1 for the second, and so on."""

    def __init__(self):
        super().__init__()
        self.count = itertools.count()

    def forward(self, x):
        return torch.cat([torch.full_like(one, float(next(self.count))) for one in x.split(1)])


def outputs_along_z(length, window):
    """Return the output of each voxel along z, with windows along z only, and the number of windows."""
    network = Numbered()
    found = window_logits(network, torch.zeros(1, 1, 1, length), Inference((1, 1, window), nn.Identity(), True, CPU))
    assert found.shape == (1, 1, 1, length)
    return found[0, 0, 0], next(network.count)


def test_neighbouring_windows_overlap_by_half():
    along, count = outputs_along_z(32, 16)
    assert count == 3 and along[0] == 0 and along[31] == 2
    assert outputs_along_z(48, 16)[1] == 5


def test_where_windows_overlap_the_one_whose_middle_is_nearer_counts_more():
    """MONAI's Gaussian of an eighth of the window: constant windows would give ½ throughout."""
    along, count = outputs_along_z(24, 16)
    assert count == 2
    assert (along[:8] == 0).all() and (along[16:] == 1).all()
    overlap = along[8:16]
    centres, sigma = torch.tensor([8.0, 16.0]) - 0.5, 16 / 8
    weights = torch.exp(-0.5 * ((torch.arange(8.0, 16.0).unsqueeze(1) - centres) / sigma) ** 2)
    expected = weights[:, 1] / weights.sum(dim=1)
    assert (overlap.diff() > 0).all() and overlap[0] < 0.05 and overlap[-1] > 0.95
    torch.testing.assert_close(overlap, expected, rtol=0, atol=0.03)
    assert overlap[3].item() + overlap[4].item() == pytest.approx(1, abs=1e-3)
