"""Every way to load weights: which files are refused, which are loaded, and the messages."""

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torchvision

from models.classification import build_classifier
from models.encoders import build_encoder
from models.export import main as export
from models.pcrlv2_model import PCRLv2
from models.pcrlv2_model_3d import Encoder3d, PCRLv23d
from models.pretrained import LIBRARIES, load_encoder, load_encoder_with_match, load_resnet18, load_weights
from models.pretrained import main as command
from models.segmentation import build_segmenter
from models.weight_files import PREFIXES, read_weights
from utils.errors import UsageError, UserError

CLASSIFICATION = {dim: partial(build_classifier, dim=dim, classes=2) for dim in (2, 3)}
SEGMENTATION = {
    (2, skips): partial(build_segmenter, dim=2, regions=2, in_channels=3, skips=skips) for skips in (True, False)
} | {(3, norm): partial(build_segmenter, dim=3, regions=2, in_channels=1, norm=norm) for norm in ("bn", "gn")}
DOORS: dict[int, dict[str, Callable]] = {
    2: {
        "load_encoder": lambda path: load_encoder(path, 2),
        **{library: partial(load_resnet18, library=library) for library in LIBRARIES},
        "classifier": lambda path: CLASSIFICATION[2](weights=path),
        "unet": lambda path: SEGMENTATION[2, True](weights=path),
        "plain net": lambda path: SEGMENTATION[2, False](weights=path),
        "--init": lambda path: load_weights(PCRLv2(encoder_weights=None), path),
        "models.pretrained": lambda path: command([str(path)]),
        "models.export": lambda path: export([str(path), "--dim", "2", "--to", "onnx", "--out", f"{path}.onnx"]),
    },
    3: {
        "load_encoder": lambda path: load_encoder(path, 3),
        "classifier": lambda path: CLASSIFICATION[3](weights=path),
        "unet": lambda path: SEGMENTATION[3, "bn"](weights=path),
        "unet of another norm": lambda path: SEGMENTATION[3, "gn"](weights=path),
        "--init": lambda path: load_weights(PCRLv23d(), path),
        "models.pretrained": lambda path: command([str(path), "--dim", "3"]),
        "models.export": lambda path: export([str(path), "--dim", "3", "--to", "onnx", "--out", f"{path}.onnx"]),
    },
}


@pytest.fixture(scope="module")
def weights():
    """Entries of an encoder of each dimension, each of values of its own."""
    torch.manual_seed(0)
    found = {2: build_encoder(2, 3).state_dict(), 3: Encoder3d().state_dict()}
    for entries in found.values():
        for value in entries.values():
            if value.is_floating_point():
                value.uniform_(0.02, 0.04)
    return found


def refused(door, path, *words):
    """Check that loading fails with one line that starts with the file and contains all the words."""
    with pytest.raises(UserError) as caught:
        door(path)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(str(path)), message
    for word in words:
        assert word in message, message


LAST = {2: "layer4.1.conv2.weight", 3: "down_tr512.ops.1.conv1.weight"}


def spoil(entries, fault):
    """Return the entries of a broken run or another network, and words of the error message."""
    entries = copy.deepcopy(dict(entries))
    dim, last = next((dim, name) for dim, name in LAST.items() if name in entries)
    if isinstance(fault, float):
        entries[last].view(-1)[3] = fault
        return entries, f"expected weights, but {last} has values "
    if fault == "shape":
        entries[last] = entries[last][:-1]
        return entries, f"of another shape: {last} (511×"
    if fault == "fewer":
        del entries[last]
        return entries, f"missing: {last};"
    extra = {
        "more units": {2: "layer4.2.conv2.weight", 3: "down_tr512.ops.2.conv1.weight"},
        "more stages": {2: "layer5.0.conv1.weight", 3: "down_tr1024.ops.0.conv1.weight"},
        "another stem": {2: "conv1.0.weight", 3: "down_tr64.0.weight"},
    }[fault][dim]
    return entries | {extra: entries[last]}, f"of another encoder: {extra};"


@pytest.mark.parametrize(("dim", "door"), [(dim, door) for dim, doors in DOORS.items() for door in doors])
def test_every_door_refuses_numbers_that_are_none_and_other_networks(weights, tmp_path, dim, door):
    for fault in (torch.nan, "more units"):
        entries, words = spoil(weights[dim], fault)
        torch.save(entries, tmp_path / "w.pt")
        refused(DOORS[dim][door], tmp_path / "w.pt", words)
    torch.save(weights[5 - dim], tmp_path / "w.pt")
    words = "expected every entry of its encoder, 0 of ", "number of dimensions?"
    refused(DOORS[dim][door], tmp_path / "w.pt", *words)
    assert [file.name for file in tmp_path.iterdir()] == ["w.pt"]


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("fault", [-torch.inf, 1e33, "shape", "fewer", "more stages", "another stem"])
def test_each_fault_is_named(weights, tmp_path, dim, fault):
    entries, words = spoil(weights[dim], fault)
    torch.save({"state_dict": entries, "epoch": 3}, tmp_path / "w.pt")
    refused(partial(load_encoder, dim=dim), tmp_path / "w.pt", words)


def test_the_name_in_the_file_is_given(weights, tmp_path):
    entries, _ = spoil(weights[2], torch.nan)
    torch.save({f"module.{name}": value for name, value in entries.items()}, tmp_path / "w.pt")
    refused(read_weights, tmp_path / "w.pt", "module.layer4.1.conv2.weight has values that are not finite")


@pytest.mark.parametrize(("layers", "fit"), [(34, 100), (50, 77)])
def test_deeper_resnets_are_refused(tmp_path, layers, fit):
    torch.save(getattr(torchvision.models, f"resnet{layers}")().state_dict(), tmp_path / "w.pt")
    refused(DOORS[2]["classifier"], tmp_path / "w.pt", "of another encoder: layer1.", " more;", f"{fit} of 100 fit")


@pytest.mark.parametrize(("dim", "build"), [(2, lambda: PCRLv2(encoder_weights=None)), (3, PCRLv23d)])
def test_a_refused_file_changes_nothing(weights, tmp_path, dim, build):
    entries, _ = spoil(weights[dim], "more stages")
    torch.save(entries, tmp_path / "w.pt")
    model = build()
    before = copy.deepcopy(model.state_dict())
    refused(partial(load_weights, model), tmp_path / "w.pt")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("container", [(), ("state_dict",), ("model_state_dict",), ("model",), ("model", "state_dict")])
@pytest.mark.parametrize("prefix", [*PREFIXES, "model._orig_mod.module.encoder.", "encoder.module.backbone."])
def test_what_others_put_around_an_encoder_is_taken_off(weights, tmp_path, container, prefix):
    content = {f"{prefix}{name}": value for name, value in weights[3].items()} | {"decoder.conv1.weight": torch.ones(2)}
    for name in reversed(container):
        content = {name: content, "epoch": 3}
    torch.save(content, tmp_path / "w.pt")
    encoder, match = load_encoder_with_match(tmp_path / "w.pt", 3)
    assert all(torch.equal(value, weights[3][name]) for name, value in encoder.state_dict().items())
    assert str(match) == "56 of 56 entries matched; not used of the file: decoder.conv1.weight"


def test_two_networks_in_one_file_are_refused(weights, tmp_path):
    both = {f"{who}{name}": value for who in ("module.", "encoder.") for name, value in weights[2].items()}
    torch.save(both, tmp_path / "w.pt")
    refused(read_weights, tmp_path / "w.pt", "got both module.conv1.weight and encoder.conv1.weight")


def test_torchvisions_weights_go_in_with_or_without_counters_and_classifier(tmp_path):
    torch.manual_seed(1)
    entries = torchvision.models.resnet18().state_dict()
    torch.save(entries, tmp_path / "w.pt")
    encoder, match = load_encoder_with_match(tmp_path / "w.pt", 2)
    assert torch.equal(encoder.state_dict()["layer4.1.conv2.weight"], entries["layer4.1.conv2.weight"])
    assert str(match) == "120 of 120 entries matched; not used of the file: fc.weight, fc.bias"
    network = load_resnet18(tmp_path / "w.pt", "torchvision")
    assert torch.equal(network.fc.weight, entries["fc.weight"])
    torch.save({n: x for n, x in entries.items() if not n.endswith("tracked")}, tmp_path / "old.pt")
    assert str(load_encoder_with_match(tmp_path / "old.pt", 2)[1]).startswith("100 of 100 entries matched; ")


def test_a_decoder_is_loaded_whole_or_stays_random_and_is_named(weights, tmp_path):
    source, model = PCRLv23d(), PCRLv23d()
    torch.save(source.state_dict(), tmp_path / "whole.pt")
    assert str(load_weights(model, tmp_path / "whole.pt")) == "169 of 169 entries matched"
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in source.state_dict().items())
    part = source.state_dict() | {"out_tr.final_conv.bias": torch.ones(3)}
    torch.save(part, tmp_path / "part.pt")
    model = PCRLv23d()
    random = model.up_tr64.up_conv.weight.clone()
    match = load_weights(model, tmp_path / "part.pt")
    assert match.matched == 56 and "not in the file: up_tr256, up_tr128, up_tr64, out_tr" in str(match)
    assert torch.equal(model.up_tr64.up_conv.weight, random)
    torch.save(weights[2], tmp_path / "encoder.pt")
    match = load_weights(PCRLv2(encoder_weights=None), tmp_path / "encoder.pt")
    assert match.matched == 120 and "not in the file: model" in str(match)


def test_another_number_of_channels_is_adapted_at_every_door_that_has_its_own(weights, tmp_path):
    for dim, channels in ((2, 1), (3, 4)):
        torch.save(load_encoder_of(weights[dim], dim, channels, tmp_path).state_dict(), tmp_path / "w.pt")
        first = {2: "conv1.weight", 3: "down_tr64.ops.0.conv1.weight"}[dim]
        expected = weights[dim][first].sum(dim=1)
        for build in (CLASSIFICATION[dim], SEGMENTATION[dim, True if dim == 2 else "bn"]):
            loaded = build(weights=tmp_path / "w.pt").encoder.state_dict()[first]
            torch.testing.assert_close(loaded.sum(dim=1), expected)
        assert load_encoder(tmp_path / "w.pt", dim).state_dict()[first].shape[1] == channels


def load_encoder_of(entries, dim, channels, folder):
    torch.save(entries, folder / "source.pt")
    return load_encoder(folder / "source.pt", dim, in_channels=channels)


def test_other_norms_take_a_batchnorms_weights_but_not_the_other_way_round(weights, tmp_path):
    torch.save(weights[3], tmp_path / "bn.pt")
    encoder, match = load_encoder_with_match(tmp_path / "bn.pt", 3, norm="gn")
    assert match.matched == len(encoder.state_dict()) == 32 and str(match).endswith("down_tr256, down_tr512")
    torch.save(encoder.state_dict(), tmp_path / "gn.pt")
    refused(partial(load_encoder, dim=3), tmp_path / "gn.pt", "another norm than BatchNorm", "32 of 48 fit")
    assert torch.equal(load_encoder(tmp_path / "gn.pt", 3, norm="gn").down_tr64.ops[0].bn1.bias,
                       weights[3]["down_tr64.ops.0.bn1.bias"])  # fmt: skip
    with pytest.raises(UsageError, match="expected 'bn' in 2D, got 'gn'"):
        load_encoder(tmp_path / "gn.pt", 2, norm="gn")
