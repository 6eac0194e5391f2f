"""Both networks against the published program's keys and forward passes."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from models.pcrlv2_model import PCRLv2
from models.pcrlv2_model_3d import PCRLv23d
from tests.devices import DEVICES
from tests.golden_numbers import GOLDEN, fill, normal, read_json
from utils.errors import UsageError, UserError

MODELS = {2: lambda: PCRLv2(encoder_weights=None), 3: PCRLv23d}
INPUTS = {2: ("x2", (2, 3, 64, 64)), 3: ("x3", (2, 1, 32, 32, 16))}


@pytest.mark.parametrize("dim", [2, 3])
def test_state_dict_has_the_published_keys_and_shapes(dim):
    shapes = {key: list(value.shape) for key, value in MODELS[dim]().state_dict().items()}
    assert shapes == read_json(f"keys_{dim}d.json")


def test_2d_encoder_has_the_published_keys():
    encoder = PCRLv2(encoder_weights=None).model.encoder
    assert {k: list(v.shape) for k, v in encoder.state_dict().items()} == read_json("keys_2d_encoder.json")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("dim", [2, 3])
def test_forward_meets_the_golden_numbers(dim, mode, device):
    golden = np.load(GOLDEN / f"forward_{dim}d.npz")
    model = fill(MODELS[dim]()).train(mode == "train").to(device)
    with torch.no_grad():
        output = tree_map(Tensor.cpu, model(normal(*INPUTS[dim]).to(device)))
    np.testing.assert_allclose(output.restoration.float(), golden[f"{mode}_reconstruction"], rtol=1e-5, atol=1e-6)
    assert f"{mode}_projection_{len(output.embeddings)}" not in golden.files
    for stage, (projection, prediction) in enumerate(output.embeddings):
        np.testing.assert_allclose(projection, golden[f"{mode}_projection_{stage}"], rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(prediction, golden[f"{mode}_prediction_{stage}"], rtol=1e-8, atol=1e-10)
        image = output.intermediate[stage].float()
        np.testing.assert_allclose(image, golden[f"{mode}_intermediate_{stage}"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dim", [2, 3])
def test_without_restoration_only_the_embeddings_are_made(dim):
    model = fill(MODELS[dim]()).eval()
    x = normal(*INPUTS[dim])
    with torch.no_grad():
        full, lean = model(x), model(x, restore=False)
    assert lean.restoration is None and lean.intermediate == []
    for a, b in zip(full.embeddings, lean.embeddings, strict=True):
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


@pytest.mark.parametrize(("norm", "act"), [("gn", "prelu"), ("in", "elu"), ("bn", "sigmoid")])
def test_3d_variants_run_and_keep_lopsided_sizes(norm, act):
    model = PCRLv23d(n_class=2, act=act, norm=norm, in_channels=4)
    output = model(torch.randn(2, 4, 16, 24, 32))
    assert output.restoration.shape == (2, 2, 16, 24, 32)
    assert [image.shape for image in output.intermediate] == [(2, 2, 16, 24, 32)] * 3


def test_unknown_norm_and_act_are_named():
    with pytest.raises(UsageError, match="norm must be .* got 'batch'"):
        PCRLv23d(norm="batch")
    with pytest.raises(UsageError, match="act must be .* got 'gelu'"):
        PCRLv23d(act="gelu")


def test_hub_out_of_reach_is_one_line_that_names_the_option(monkeypatch):
    import segmentation_models_pytorch as smp

    def unreachable(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(smp, "Unet", unreachable)
    with pytest.raises(UserError, match="--encoder_weights none") as caught:
        PCRLv2()
    assert "\n" not in str(caught.value)
