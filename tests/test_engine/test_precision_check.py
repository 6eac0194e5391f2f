"""Half precision is checked before use: layers with a simulated kernel fault are found, reported and use float32."""

import copy
import re

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from data.phantoms.dataset import make_xrays
from engine import precision, precision_check
from engine.precision_check import check_half_precision, compute_in_float32, describe_float32_layers
from tests.programs import run

CPU, BF16 = torch.device("cpu"), torch.bfloat16


class Fault(TorchDispatchMode):
    """A processor with wrong half-precision weight gradients of convolutions over features of size ``space``."""

    def __init__(self, space, spoil=lambda gradient: gradient.fill_(1e33)):
        super().__init__()
        self.space, self.spoil, self.met = tuple(space), spoil, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function is torch.ops.aten.convolution_backward.default:
            x, mask = args[1], args[-1]
            if x.dtype == BF16 and tuple(x.shape[2:]) == self.space and mask[1]:
                self.met += 1
                self.spoil(result[1])
        return result


class Net(nn.Module):
    """Two convolutions at full size, one at half size, one whose weight a function uses directly, and BatchNorm."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.deep = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(4, 5, 3, padding=1), nn.Dropout(0.5))
        self.bare = nn.Conv2d(5, 3, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, x, restore=True):
        features = F.relu(self.second(F.relu(self.norm(self.first(x)))))
        features = F.conv2d(self.deep(features), self.bare.weight, self.bare.bias)
        return self.head(features.mean(dim=(2, 3)))


def make_net():
    torch.manual_seed(0)
    return Net()


def run_net(net, seed=1):
    x = torch.randn(6, 1, 8, 12, generator=torch.Generator().manual_seed(seed))
    with torch.autocast("cpu", BF16):
        return net(x).float()


def check_net(net):
    return check_half_precision(net, lambda: run_net(net), [CPU], BF16)


SPOILT = {
    "huge": lambda gradient: gradient.fill_(1e33),
    "not a number": lambda gradient: gradient.fill_(torch.nan),
    "never written": lambda gradient: gradient.zero_(),
    "of the wrong sign": lambda gradient: gradient.neg_(),
    "one entry": lambda gradient: gradient.view(-1)[0].add_(1e4),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_faulty_layer_is_found_and_computed_in_float32(spoil):
    net, plain = make_net(), make_net()
    names = list(net.state_dict())
    with Fault((8, 12), spoil) as fault:
        assert check_net(net) == ["first", "second"] and fault.met
        met = fault.met
        assert check_net(net) == [], "layers that compute in float32 already are not reported again"
        run_net(net.train()).sum().backward()
        assert fault.met == met
    assert list(net.state_dict()) == names and isinstance(net.second, nn.Conv2d)
    assert not isinstance(net.deep[1], precision_check._InFloat32)
    torch.manual_seed(5)
    net.zero_grad()
    run_net(net).sum().backward()
    torch.manual_seed(5)
    plain(torch.randn(6, 1, 8, 12, generator=torch.Generator().manual_seed(1))).sum().backward()
    for name, parameter in net.named_parameters():
        if "bias" not in name:  # those before BatchNorm have a gradient of rounding alone
            error = (parameter.grad - plain.get_parameter(name).grad).norm() / plain.get_parameter(name).grad.norm()
            assert error < 0.2, name


def test_a_faulty_product_of_no_layer_puts_the_whole_network_in_float32():
    net = make_net()
    with Fault((4, 6)):
        # Float32 in the layer that owns the weight does not help, since the function does not call the layer.
        assert check_net(net) == ["bare", "deep.1", ""]
        assert isinstance(net, precision_check._InFloat32)
    x = torch.randn(6, 1, 8, 12, generator=torch.Generator().manual_seed(1))
    assert torch.equal(run_net(net.eval()), net(x))


def test_where_nothing_is_wrong_nothing_changes():
    net = make_net()
    net.deep.eval()
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    state, modes = copy.deepcopy(net.state_dict()), [m.training for m in net.modules()]
    kinds, random = [type(m) for m in net.modules()], torch.get_rng_state()
    assert check_net(net) == []
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in state.items())
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in net.parameters())
    assert modes == [m.training for m in net.modules()] and kinds == [type(m) for m in net.modules()]
    assert torch.equal(random, torch.get_rng_state())


def test_every_kind_of_product_is_checked():
    class Products(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.line = nn.ConvTranspose3d(2, 3, 2, stride=2), nn.Linear(3, 4)
            self.loose = nn.Parameter(torch.randn(4, 5))

        def forward(self, x):
            x = self.line(self.up(x).flatten(2).transpose(1, 2)) @ self.loose
            return torch.einsum("bnf,bnf->bf", x, x)

    net = Products()
    with torch.autocast("cpu", BF16), precision_check._ProductRecorder(CPU) as recorder:
        net(torch.randn(5, 2, 3, 2, 4))
    found = {p.function: p for p in recorder.products}
    assert found.keys() == {F.conv_transpose3d, F.linear, torch.Tensor.matmul, torch.einsum}
    shapes = [x.shape for x in found[F.conv_transpose3d].args if isinstance(x, precision_check.TensorSpec)]
    assert shapes == [(precision_check.SAMPLES_ON_CPU, 2, 3, 2, 4), (2, 3, 2, 2, 2), (3,)]
    assert all(precision_check.worst_error(p, CPU, BF16) < 0.02 for p in recorder.products)


def test_products_are_checked_in_the_memory_format_of_the_run():
    net = nn.Conv3d(2, 3, 3).to(memory_format=torch.channels_last_3d)
    x = torch.randn(2, 2, 4, 5, 6).to(memory_format=torch.channels_last_3d)
    with torch.autocast("cpu", BF16), precision_check._ProductRecorder(CPU) as recorder:
        net(x)
    (product,) = recorder.products
    drawn = product.args[0].draw(torch.Generator(), BF16)
    assert drawn.shape == x.shape and drawn.stride() == x.stride()


def test_processes_agree(monkeypatch):
    answers = iter([{"deep.1"}, set()])
    monkeypatch.setattr(precision_check, "gather", lambda own: [own, next(answers)])
    net = make_net()
    assert check_net(net) == ["deep.1"] and isinstance(net.deep[1], precision_check._InFloat32)


def test_a_replica_computes_with_its_own_parameters():
    layer = nn.Linear(3, 2)
    compute_in_float32(layer)
    replica = layer._replicate_for_data_parallel()
    replica.weight, replica.bias = torch.full((2, 3), 2.0), torch.zeros(2)
    assert torch.equal(replica(torch.ones(1, 3)), torch.full((1, 2), 6.0))


def test_the_message_names_five_layers():
    line = describe_float32_layers([f"layer{i}" for i in range(7)], CPU, BF16)
    assert line == (
        "--amp: gradients in bfloat16 are wrong on this CPU in layer0, layer1, layer2, layer3, layer4 and 2 more; "
        "computing these layers in float32"
    )
    assert describe_float32_layers(["", "a"], CPU, BF16).endswith("wrong on this CPU; computing in float32")


@pytest.fixture
def shallow(monkeypatch):
    """A 2D network of a third of the weights, on a CPU that claims to have bf16."""
    monkeypatch.setitem(smp.encoders.encoders["resnet18"]["params"], "layers", [1, 1, 1, 1])
    monkeypatch.setattr("models.pcrlv2_model.DECODER_CHANNELS", (32, 32, 16, 16, 16))
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)


@pytest.fixture(scope="module")
def nih(tmp_path_factory):
    root = tmp_path_factory.mktemp("nih")
    make_xrays(root, 12, 3, size=72)
    return root


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("phase", ["pretask", "finetune"])
def test_training_with_amp_on_a_faulty_processor(nih, phase, tmp_path, monkeypatch, capsys):
    """The deepest layers have 2×2 features, in pre-training those of a global view."""
    options = [
        "--data", nih, "--output", tmp_path / "out", "--lists", tmp_path / "lists", "--n", "chest", "--d", 2, "--b", 4,
        "--workers", 0, "--global_size", 64, "--epochs", 0, "--lr", 1e-3, "--amp", "--phase", phase,
    ]  # fmt: skip
    more = (
        ["--ratio", 1.0, "--local_size", 32, "--encoder_weights", "none"]
        if phase == "pretask"
        else ["--ratio", 0, "--weight", "none"]
    )
    with Fault((2, 2)) as fault:
        status, error = run(monkeypatch, capsys, *options, *more)
    assert status == 0, error
    (line,) = [line for line in error.splitlines() if "--amp" in line]
    assert re.match(r"--amp: gradients in bfloat16 are wrong on this CPU in .*encoder\.layer4\.0\.conv2", line), line
    assert fault.met > 0
    saved = torch.load(tmp_path / "out" / "state" / "last.pt")
    assert int(saved["guard"]["counts"][0]) == 0, "no step was skipped"
    assert all(np.abs(value.numpy()).max() < 1e4 for value in saved["model"].values() if value.is_floating_point())
