"""Upsampling and convolution in one are the two in turn, for values, gradients and at the border."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models import upsampling
from models.pcrlv2_model import DecoderBlock
from models.pcrlv2_model_3d import UpTransition
from models.upsampling import conv_after_nearest, conv_after_transposed


@pytest.fixture(params=["folded", "in turn"])
def folded(request, monkeypatch):
    """Both branches, whatever the size."""
    for name in ("POSITIONS_PER_CHANNEL", "POSITIONS"):
        monkeypatch.setattr(upsampling, name, 0 if request.param == "folded" else 10**9)
    return request.param == "folded"


def gradients_of(y, inputs):
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
    return torch.autograd.grad((y * weights).sum(), inputs)


def assert_alike(ours, plain, inputs):
    torch.testing.assert_close(ours, plain)
    for a, b in zip(gradients_of(ours, inputs), gradients_of(plain, inputs), strict=True):
        torch.testing.assert_close(a, b)


def test_a_convolution_after_a_transposed_one(folded):
    torch.manual_seed(0)
    up, conv = nn.ConvTranspose3d(3, 3, 2, stride=2).double(), nn.Conv3d(3, 5, 3, padding=1).double()
    x = torch.randn(2, 3, 4, 1, 3, dtype=torch.double, requires_grad=True)
    assert_alike(conv_after_transposed(x, up, conv), conv(up(x)), [x, *up.parameters(), *conv.parameters()])


def test_a_convolution_after_nearest_neighbours(folded):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, 3, padding=1, bias=False).double()
    x = torch.randn(2, 3, 4, 1, dtype=torch.double, requires_grad=True)
    assert_alike(conv_after_nearest(x, conv), conv(F.interpolate(x, scale_factor=2)), [x, conv.weight])


@pytest.mark.parametrize("folds", [True, False])
def test_only_features_that_pay_for_the_common_kernel_are_folded(folds, monkeypatch):
    calls = []
    for name in ("conv_transpose2d", "conv_transpose3d"):
        real = getattr(F, name)
        noted = lambda x, kernel, *a, real=real, **k: calls.append(kernel.shape[2:]) or real(x, kernel, *a, **k)  # noqa: E731
        monkeypatch.setattr(F, name, noted)
    batch = 64 if folds else 1
    conv_after_nearest(torch.zeros(batch, 2, 8, 8), nn.Conv2d(2, 2, 3, padding=1, bias=False))
    up, conv = nn.ConvTranspose3d(32, 32, 2, stride=2), nn.Conv3d(32, 2, 3, padding=1)
    conv_after_transposed(torch.zeros(batch, 32, 2, 2, 2), up, conv)
    assert calls.count((4, 4)) == calls.count((4, 4, 4)) == folds


def test_decoder_stages_are_their_layers_in_turn(folded):
    torch.manual_seed(0)
    block, x = DecoderBlock(6, 4, 3).double(), torch.randn(2, 6, 3, 5, dtype=torch.double)
    torch.testing.assert_close(block.decode(x), block.conv2(block.conv1(F.interpolate(x, scale_factor=2))))
    stage = UpTransition(6, 4, n_class=1, act="relu", norm="bn").double()
    x = torch.randn(2, 6, 3, 2, 1, dtype=torch.double)
    torch.testing.assert_close(stage.decode(x), stage.ops(stage.up_conv(x)))


def test_in_half_precision_it_is_as_near_to_the_truth(folded):
    torch.manual_seed(0)
    up, conv = nn.ConvTranspose3d(32, 32, 2, stride=2), nn.Conv3d(32, 16, 3, padding=1)
    flat, x = nn.Conv2d(32, 16, 3, padding=1, bias=False), torch.randn(2, 32, 6, 5, 4)
    pairs = [(conv_after_transposed, (x, up, conv)), (conv_after_nearest, (x[..., 0], flat))]
    for function, arguments in pairs:
        exact = function(*arguments)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = function(*arguments)
        # bf16 has 8 bits: each rounding is off by 0.2 % in the root mean square.
        assert rounded.dtype == torch.bfloat16
        assert (rounded.float() - exact).square().mean().sqrt() < 0.006 * exact.std()
