"""Pictures show the images and restorations that the loss gets, and do not change the model."""

import torch
from torch import nn

from engine.pictures import restoration_grid
from utils.records import Output, Views


class Restorer(nn.Module):
    """Restores half of the normalised image; its one stage restores the negative."""

    def __init__(self, channels, dims):
        super().__init__()
        self.norm = (nn.BatchNorm2d if dims == 2 else nn.BatchNorm3d)(channels)

    def forward(self, x):
        x = self.norm(x)
        return Output(x / 2, [], [-x])


def make_views(*shape):
    images = torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 3 - 1
    return Views(images, images, images * 2, images[:, None])


def cells(grid, columns, side_y, side_x):
    for row in range((grid.shape[1] - 2) // (side_y + 2)):
        yield [grid[0, 2 + row * (side_y + 2) :, 2 + c * (side_x + 2) :][:side_y, :side_x] for c in range(columns)]


def test_columns_are_input_target_and_restorations_in_the_targets_greys():
    views = make_views(5, 3, 130, 150)
    model = Restorer(3, 2).eval()
    before = [buffer.clone() for buffer in model.buffers()]
    grid = restoration_grid(model, views)
    assert grid.shape == (3, 2 + 4 * 132, 2 + 4 * 152) and 0 <= grid.min() < grid.max() <= 1
    for i, (source, target, restoration, stage) in enumerate(cells(grid, 4, 130, 150)):
        assert torch.allclose(source, target, atol=1e-5)  # twice the values, each in its own range
        normed = nn.functional.batch_norm(views.global1, None, None, training=True)[i, 0]
        low, high = views.target[i, 0].min(), views.target[i, 0].max()
        assert torch.allclose(restoration, ((normed / 2 - low) / (high - low)).clamp(0, 1), atol=1e-5)
        assert torch.allclose(stage, ((-normed - low) / (high - low)).clamp(0, 1), atol=1e-5)
    assert i == 3 and not model.training
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))


def test_volumes_show_their_middle_slice_enlarged():
    views = make_views(2, 1, 16, 24, 8)
    grid = restoration_grid(Restorer(1, 3), views)
    factor = 128 // 16
    (_, target, *_), _ = cells(grid, 4, 24 * factor, 16 * factor)
    expected = views.target[0, 0, :, :, 4].T
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    assert torch.allclose(target[::factor, ::factor], expected, atol=1e-5)
