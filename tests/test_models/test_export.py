"""Encoders as other programs take them: safetensors, ONNX, other numbers of input channels."""

import json
import subprocess
import sys

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision

from data import views2d
from data.preprocess import PRETRAINED, Preprocessing, preprocessing_of
from data.transforms import hounsfield
from models.encoders import adapt_input, build_encoder
from models.export import main
from models.pcrlv2_model_3d import Encoder3d, PCRLv23d
from models.pretrained import load_encoder, load_encoder_with_match
from models.weight_files import read_weights
from utils.checkpoints import read_checkpoint, save_checkpoint
from utils.errors import UsageError, UserError

SECOND_SHAPES = {2: (3, 3, 96, 64), 3: (3, 1, 24, 8, 16)}


def unsettle(module, seed=0):
    """Set running statistics and scales that no fresh network has, so that losing them is noticed."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if "bn" in name or "downsample.1" in name:
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) * 0.5 + 0.5)
            else:
                value.fill_(7)
    return module


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    for dim, module in {2: build_encoder(2, 3), 3: PCRLv23d()}.items():
        save_checkpoint(folder / f"{dim}.pt", {"opt": {}, "state_dict": unsettle(module).state_dict(), "epoch": 1})
    return {dim: folder / f"{dim}.pt" for dim in (2, 3)}


def run(files, dim, to, out, *more):
    return main([str(files[dim]), "--dim", str(dim), "--to", to, "--out", str(out), *more])


@pytest.fixture(scope="module")
def safetensors2d(files, tmp_path_factory):
    safetensors = pytest.importorskip("safetensors.torch")
    out = tmp_path_factory.mktemp("out") / "e.safetensors"
    run(files, 2, "safetensors", out)
    return safetensors.load_file(out)


def features_of(model, x):
    if isinstance(model, smp.Unet):
        return model.encoder(x)[-1]
    if hasattr(model, "forward_features"):
        return model.forward_features(x)
    return torch.nn.Sequential(*list(model.children())[:-2])(x)


@pytest.mark.parametrize(
    "build",
    [
        lambda: smp.Unet("resnet18", encoder_weights=None),
        torchvision.models.resnet18,
        lambda: timm.create_model("resnet18"),
    ],
    ids=["smp", "torchvision", "timm"],
)
def test_2d_safetensors_go_into_other_libraries_and_compute_the_same(files, safetensors2d, build):
    other = build().eval()
    if isinstance(other, smp.Unet):
        other.encoder.load_state_dict(dict(safetensors2d))
    else:
        report = other.load_state_dict(safetensors2d, strict=False)
        assert report.unexpected_keys == [] and sorted(report.missing_keys) == ["fc.bias", "fc.weight"]
    x = torch.randn(2, 3, 64, 96)
    torch.testing.assert_close(features_of(other, x), load_encoder(files[2], 2).eval()(x)[-1])


def test_3d_safetensors_go_into_the_encoder(files, tmp_path, capsys):
    safetensors = pytest.importorskip("safetensors.torch")
    run(files, 3, "safetensors", tmp_path / "e.safetensors")
    entries = safetensors.load_file(tmp_path / "e.safetensors")
    encoder = Encoder3d()
    encoder.load_state_dict(entries)
    weights = read_weights(files[3])
    assert all(torch.equal(value, weights[name]) for name, value in encoder.state_dict().items())
    count = len(encoder.state_dict())
    assert f"{count} of {count} entries matched; not used of the file: up_tr256, " in capsys.readouterr().err


CHEST = {
    "model": "pcrlv2", "phase": "pretask", "n": "chest", "d": 2, "ratio": 1.0, "seed": 42, "global_size": 160,
    "intensity": "percentiles", "invert": True, "data": "/home/me/nih", "init": "/home/me/first.pt",
}  # fmt: skip
RUN = {
    "options": CHEST,
    "version": "1.1.0",
    "git_revision": "abc",
    "samples": 78468,
    "list": "ff",
    "status": "finished",
}


def metadata_of(path):
    safetensors = pytest.importorskip("safetensors")
    with safetensors.safe_open(path, framework="pt") as file:
        found = file.metadata()
    assert found.pop("format") == "pt"
    return {name: json.loads(text) for name, text in found.items()}


@pytest.fixture
def chest(files, tmp_path):
    """Weights of a run with options of its own, and the run.json beside them."""
    save_checkpoint(tmp_path / "w.pt", {"opt": CHEST, "state_dict": read_weights(files[2]), "epoch": 240})
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    return {2: tmp_path / "w.pt"}


def test_safetensors_say_how_images_become_inputs_and_where_the_weights_come_from(chest, tmp_path):
    run(chest, 2, "safetensors", tmp_path / "e.safetensors", "--in_channels", "1")
    found = metadata_of(tmp_path / "e.safetensors")
    assert found["preprocessing"] == {
        "dimensions": 2, "channels": 1, "norm": "bn", "window": [160, 160], "whole": False,
        "intensity": "percentiles", "invert": True, "axes": "y x", "grey_scaled_to": [0, 1],
        "mean": list(views2d.MEAN), "std": list(views2d.STD),
    }  # fmt: skip
    settings = {name: value for name, value in CHEST.items() if name != "data"} | {"init": "first.pt"}
    origin = found["provenance"]
    assert origin.pop("exported_by").startswith("PCRLv2 ")
    assert origin == {name: value for name, value in RUN.items() if name != "options"} | {
        "program": "PCRLv2", "weights": "w.pt", "epoch": 240, "data_set": "chest", "settings": settings,
    }  # fmt: skip
    assert preprocessing_of(tmp_path / "e.safetensors", 2) == preprocessing_of(chest[2], 2)


def test_our_safetensors_load_and_are_exported_again_as_they_are(chest, tmp_path):
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    run(chest, 2, "safetensors", one)
    (tmp_path / "run.json").unlink()
    run({2: one}, 2, "safetensors", two)
    assert metadata_of(one) == metadata_of(two) and metadata_of(one)["provenance"]["samples"] == 78468
    before, after = load_encoder(chest[2], 2).state_dict(), load_encoder(two, 2).state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())


def test_of_3d_weights_what_is_assumed_of_crops_is_said(files, tmp_path):
    run(files, 3, "safetensors", tmp_path / "e.safetensors")
    found, published = metadata_of(tmp_path / "e.safetensors")["preprocessing"], PRETRAINED[3]
    assert (found["window"], found["spacing_mm"]) == (list(published.window), published.spacing)
    assert found["intensity"] == published.intensity and found["hu_window"] == [hounsfield.LOWEST, hounsfield.HIGHEST]
    assert found["normalisation"].startswith("mean 0") and found["assumed"].startswith("as published")


def test_fine_tuned_weights_bring_their_record(files, tmp_path, capsys):
    reading = Preprocessing(3, (32, 32, 16), "minmax", whole=True)
    content = {"state_dict": read_weights(files[3]), "epoch": 3, "record": {"reading": reading.as_record()}}
    save_checkpoint(tmp_path / "best.pt", content)
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    run({3: tmp_path / "best.pt"}, 3, "safetensors", tmp_path / "e.safetensors")
    found = metadata_of(tmp_path / "e.safetensors")
    assert found["preprocessing"]["spacing_mm"] == "as stored" and found["preprocessing"]["normalisation"] == "none"
    assert not found["preprocessing"].keys() & {"assumed", "hu_window", "mean"}
    assert preprocessing_of(tmp_path / "e.safetensors", 3) == reading
    # The run.json is that of a pre-training.
    assert "samples" not in found["provenance"] and "no run.json of its run beside it" in capsys.readouterr().err


def test_damaged_and_foreign_safetensors(files, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "e.safetensors"
    safetensors.save_file(build_encoder(2, 3).state_dict(), path, metadata={"format": "pt", "opt": "{", "epoch": "3"})
    assert read_checkpoint(path).keys() == {"state_dict"} and preprocessing_of(path, 2) == PRETRAINED[2]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="e.safetensors is cut short or is no safetensors file") as caught:
        load_encoder(path, 2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dim", [2, 3])
def test_onnx_gives_the_features_of_torch_at_another_size_and_batch(files, dim, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    out = tmp_path / "e.onnx"
    run(files, dim, "onnx", out)
    assert [path.name for path in tmp_path.iterdir()] == ["e.onnx"]
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    x = torch.randn(SECOND_SHAPES[dim], generator=torch.Generator().manual_seed(1))
    encoder = load_encoder(files[dim], dim).eval()
    with torch.no_grad():
        expected = encoder(x)[1 if dim == 2 else 0 :]
    found = session.run(None, {"image": x.numpy()})
    assert [o.name for o in session.get_outputs()] == [f"stage{i + 1}" for i in range(len(expected))]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(a), b, rtol=1e-3, atol=1e-4)
    single = session.run(None, {"image": x[:1].numpy()})
    torch.testing.assert_close(torch.from_numpy(single[-1]), expected[-1][:1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("dim", "channels"), [(2, 1), (2, 4), (2, 5), (3, 2), (3, 4)])
def test_a_repeated_input_gives_the_features_of_before(files, dim, channels):
    before = load_encoder(files[dim], dim).eval()
    after, match = load_encoder_with_match(files[dim], dim, in_channels=channels)
    assert match.matched == match.expected == len(after.eval().state_dict())
    n = 3 if dim == 2 else 1
    grey = torch.randn(2, 1, *SECOND_SHAPES[dim][2:], generator=torch.Generator().manual_seed(2))
    a = before(grey.repeat(1, n, *[1] * dim))
    b = after(grey.repeat(1, channels, *[1] * dim))
    torch.testing.assert_close(a[-1], b[-1], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(a[-1], before(grey.repeat(1, n, *[1] * dim) * 1.5)[-1], rtol=1e-3, atol=1e-4)
    in_place = adapt_input(before, channels)
    assert in_place is before
    torch.testing.assert_close(in_place(grey.repeat(1, channels, *[1] * dim))[-1], b[-1])


def test_the_number_of_channels_that_is_there_changes_nothing(files):
    weights = read_weights(files[2])
    assert torch.equal(adapt_input(weights, 3)["conv1.weight"], weights["conv1.weight"])
    assert weights["conv1.weight"].std(dim=1).max() > 0  # the colours stay different
    adapt_input(weights, 2)
    assert weights["conv1.weight"].shape[1] == 3


def test_an_adapted_2d_encoder_has_its_channels_for_a_decoder(files):
    encoder = load_encoder(files[2], 2, in_channels=4)
    assert encoder.out_channels[0] == 4


def test_an_export_with_more_channels_can_be_exported_again(files, tmp_path):
    encoder = load_encoder(files[3], 3, in_channels=4)
    save_checkpoint(tmp_path / "four.pt", {"state_dict": encoder.state_dict()})
    again, match = load_encoder_with_match(tmp_path / "four.pt", 3)
    assert again.down_tr64.ops[0].conv1.in_channels == 4 and match.matched == match.expected


def test_a_file_without_an_entry_of_the_encoder_is_not_exported(files, tmp_path):
    pytest.importorskip("safetensors")
    weights = dict(read_weights(files[3]))
    del weights["down_tr512.ops.1.bn1.weight"]
    save_checkpoint(tmp_path / "part.pt", {"state_dict": weights})
    with pytest.raises(UserError, match=r"47 of 48 fit, .*; missing: down_tr512.ops.1.bn1.weight; "):
        main([str(tmp_path / "part.pt"), "--dim", "3", "--to", "safetensors", "--out", str(tmp_path / "e")])
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    ("package", "to"), [("safetensors.torch", "safetensors"), ("onnxscript", "onnx"), ("onnx", "onnx")]
)
def test_a_missing_package_is_one_line_and_writes_nothing(files, tmp_path, monkeypatch, package, to):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"{package}, which is not installed: pip install -r requirements-down") as e:
        run(files, 2, to, tmp_path / "e")
    assert "\n" not in str(e.value) and list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_refused(files, tmp_path):
    torch.save({"state_dict": {"w": torch.ones(1)}}, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"other.pt: Encoder3d expected every entry of its encoder, 0 of 48 fit, of 1"):
        load_encoder(tmp_path / "other.pt", 3)
    with pytest.raises(UsageError, match="expected 1 or more, got 0"):
        adapt_input(Encoder3d(), 0)
    with pytest.raises(UsageError, match="expected 2 or 3, got 4"):
        build_encoder(4, 1)


def test_the_command_ends_with_one_line(tmp_path):
    command = [sys.executable, "-m", "models.export", "no.pt", "--dim", "2", "--to", "onnx", "--out", tmp_path / "e"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "no.pt" in done.stderr
