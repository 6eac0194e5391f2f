"""Weights as users load them: the published snippets, other libraries, our loader, hostile files."""

import argparse
import os

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision

from models.pcrlv2_model import PCRLv2
from models.pcrlv2_model_3d import PCRLv23d
from models.pretrained import LIBRARIES, load_encoder, load_encoder_with_match, load_resnet18_with_match, main
from models.weight_files import read_weights
from utils.checkpoints import read_checkpoint, save_checkpoint, weights_due, weights_name
from utils.errors import UsageError, UserError


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Our two weight files, and the same as the authors' program wrote them."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    state_dicts = {2: PCRLv2(encoder_weights=None).model.encoder.state_dict(), 3: PCRLv23d().state_dict()}
    paths = {}
    for dim, state_dict in state_dicts.items():
        for value in state_dict.values():
            if value.is_floating_point():
                value.uniform_(0.02, 0.04)
        content = {"opt": {"d": dim, "lr": 0.1}, "state_dict": state_dict, "optimizer": {"state": {}}, "epoch": 240}
        paths["ours", dim] = folder / f"ours{dim}.pt"
        save_checkpoint(paths["ours", dim], content)
        paths["authors", dim] = folder / f"authors{dim}.pt"
        torch.save({**content, "opt": argparse.Namespace(d=dim, lr=0.1)}, paths["authors", dim])
    return paths


def test_published_2d_snippet(files):
    p = files["ours", 2]
    aux_params = {"pooling": "avg", "dropout": 0.2, "activation": "sigmoid", "classes": 14}
    model = smp.Unet("resnet18", in_channels=3, classes=1, encoder_weights=None, aux_params=aux_params)
    encoder_dict = torch.load(p)["state_dict"]
    encoder_dict["fc.bias"] = 0
    encoder_dict["fc.weight"] = 0
    model.encoder.load_state_dict(encoder_dict)
    assert torch.equal(model.encoder.conv1.weight, torch.load(p)["state_dict"]["conv1.weight"])


def test_published_3d_snippet(files):
    model = PCRLv23d()
    model.load_state_dict(torch.load(files["ours", 3])["state_dict"])
    assert torch.equal(
        model.out_tr.final_conv.bias, torch.load(files["ours", 3])["state_dict"]["out_tr.final_conv.bias"]
    )


@pytest.mark.parametrize("library", LIBRARIES)
def test_2d_weights_into_each_librarys_own_network(files, library):
    network, match = load_resnet18_with_match(files["authors", 2], library)
    expected = torch.load(files["ours", 2])["state_dict"]
    assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items() if name in expected)
    assert match.matched == len(expected) and match.unused == ()
    assert match.missing == (() if library == "smp" else ("fc.weight", "fc.bias"))
    with pytest.raises(UsageError, match="expected one of smp, torchvision, timm, got keras"):
        load_resnet18_with_match(files["ours", 2], "keras")


def test_the_command_prints_what_matched(files, capsys):
    assert main([str(files["ours", 2])]) == 0
    smp_line, torchvision_line, timm_line = capsys.readouterr().out.splitlines()
    assert smp_line == "smp resnet18: 120 of 120 entries matched"
    assert torchvision_line == "torchvision resnet18: 120 of 122 entries matched; not in the file: fc.weight, fc.bias"
    assert timm_line == torchvision_line.replace("torchvision", "timm")
    assert main([str(files["authors", 3]), "--dim", "3"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line == ("Encoder3d: 56 of 56 entries matched; not used of the file: up_tr256, up_tr128, up_tr64, out_tr")
    with pytest.raises(UserError, match="expected every entry of its encoder, 0 of 100 fit"):
        main([str(files["ours", 3]), "--dim", "2"])


@pytest.mark.parametrize("build", [torchvision.models.resnet18, lambda: timm.create_model("resnet18")])
def test_2d_encoder_goes_into_other_libraries_and_computes_the_same(files, build):
    other = build().eval()
    report = other.load_state_dict(torch.load(files["ours", 2])["state_dict"], strict=False)
    assert report.unexpected_keys == [] and sorted(report.missing_keys) == ["fc.bias", "fc.weight"]
    encoder = load_encoder(files["ours", 2], 2).eval()
    x = torch.randn(2, 3, 64, 96)
    if hasattr(other, "forward_features"):
        features = other.forward_features(x)
    else:
        features = torch.nn.Sequential(*list(other.children())[:-2])(x)
    torch.testing.assert_close(encoder(x)[-1], features)


@pytest.mark.parametrize("origin", ["ours", "authors"])
@pytest.mark.parametrize("dim", [2, 3])
def test_load_encoder_takes_ours_and_the_authors(files, origin, dim):
    encoder, match = load_encoder_with_match(files[origin, dim], dim)
    assert match.matched == match.expected == len(encoder.state_dict())
    weights = read_weights(files["ours", dim])
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_3d_encoder_gives_the_features_of_the_whole_model(files):
    model = PCRLv23d().eval()
    model.load_state_dict(torch.load(files["ours", 3])["state_dict"])
    encoder = load_encoder(files["ours", 3], 3).eval()
    x = torch.randn(1, 1, 8, 16, 24)
    for a, b in zip(model.encode(x), encoder(x), strict=True):
        assert torch.equal(a, b)


class Hostile:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_a_hostile_file_runs_nothing(tmp_path):
    marker = tmp_path / "ran"
    for name, content in {
        "a": Hostile(marker),
        "b": {"state_dict": {"w": torch.ones(1)}, "opt": Hostile(marker)},
    }.items():
        torch.save(content, tmp_path / f"{name}.pt")
        with pytest.raises(UserError, match="not loaded"):
            load_encoder(tmp_path / f"{name}.pt", 3)
        torch.save(content, tmp_path / f"{name}_old.pt", _use_new_zipfile_serialization=False)
        with pytest.raises(UserError):
            load_encoder(tmp_path / f"{name}_old.pt", 3)
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a checkpoint", bytes(range(256)) * 9])
def test_unreadable_files_get_one_line(tmp_path, content):
    path = tmp_path / "w.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=str(path)) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_every_way_to_cut_a_checkpoint_short_is_noticed(files, tmp_path):
    whole = files["ours", 2].read_bytes()
    for share in (0.01, 0.3, 0.7, 0.99, 0.9999):
        (tmp_path / "cut.pt").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(UserError):
            read_checkpoint(tmp_path / "cut.pt")


def test_when_weights_are_written_and_what_they_are_called():
    assert [e for e in range(251) if weights_due(e, 250)] == [0, 100, 200, 240, 250]
    assert weights_name(model="pcrlv2", dataset="luna", phase="pretask", ratio=1.0, epoch=240) == (
        "pcrlv2_luna_pretask_1.0_240.pt"
    )
