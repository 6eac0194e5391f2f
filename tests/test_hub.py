"""hubconf.py as torch.hub loads it, also within a program that has packages of the same names."""

import copy
import pickle
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from models.encoders import build_encoder
from models.pcrlv2_model_3d import Encoder3d
from utils.checkpoints import save_checkpoint

ROOT = str(Path(__file__).parent.parent)
X = torch.linspace(-1, 1, 8 * 16 * 8).reshape(1, 1, 8, 16, 8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("hub") / "luna.pt"
    save_checkpoint(path, {"opt": {}, "state_dict": build_encoder(3, 1).state_dict(), "epoch": 1})
    return path


def load(weights, **options):
    return torch.hub.load(ROOT, "encoder", source="local", weights=str(weights), **options)


@pytest.fixture
def foreign():
    """A program that has imported packages ``models`` and ``utils`` of its own, and none of ours."""

    def ours_or_theirs():
        return [name for name in sys.modules if name.partition(".")[0] in ("models", "utils", "pcrlv2_hub")]

    before = {name: sys.modules.pop(name) for name in ours_or_theirs()}
    theirs = {name: ModuleType(name) for name in ("models", "utils", "utils.helper")}
    sys.modules.update(theirs)
    yield theirs
    # Those of libraries that were imported meanwhile stay: some, as torch's, cannot be imported twice.
    for name in ours_or_theirs():
        del sys.modules[name]
    sys.modules.update(before)


def test_within_this_program_the_encoder_is_its_own(weights):
    encoder = load(weights, dim=3)
    assert type(encoder) is Encoder3d and "pcrlv2_hub" not in sys.modules
    assert all(torch.equal(value, torch.load(weights)["state_dict"][n]) for n, value in encoder.state_dict().items())


def test_packages_of_the_same_names_do_not_meet(weights, foreign):
    encoder, again = load(weights, dim=3).eval(), load(weights, dim=3, in_channels=2)
    assert {name: sys.modules[name] for name in foreign} == foreign
    found = {name for name in sys.modules if name.partition(".")[0] in ("models", "utils")}
    assert found == foreign.keys()
    assert type(encoder).__module__ == "pcrlv2_hub.models.pcrlv2_model_3d" and type(again) is type(encoder)
    expected = encoder(X)
    for other in (pickle.loads(pickle.dumps(encoder)), copy.deepcopy(encoder), torch.compile(encoder, backend="eager")):
        assert all(torch.equal(a, b) for a, b in zip(other(X), expected, strict=True))
    assert again.down_tr64.ops[0].conv1.in_channels == 2


def test_errors_are_one_line_and_leave_the_packages_as_they_were(weights, foreign, tmp_path):
    for options, expected in (
        ({"dim": 3, "weights": tmp_path / "no.pt"}, "expected a checkpoint file, there is none at"),
        ({"dim": 2, "weights": weights}, "ResNetEncoder expected every entry of its encoder, 0 of 100 fit"),
        ({"dim": 4, "weights": weights}, "expected 2 or 3, got 4"),
    ):
        with pytest.raises(ValueError, match=expected) as caught:
            load(**options)
        assert "\n" not in str(caught.value)
        assert {name: sys.modules[name] for name in foreign} == foreign


def test_a_missing_package_is_named(weights, monkeypatch):
    monkeypatch.setattr("torch.hub._check_module_exists", lambda name: name != "segmentation_models_pytorch")
    with pytest.raises(RuntimeError, match="Missing dependencies: segmentation_models_pytorch"):
        load(weights, dim=3)
