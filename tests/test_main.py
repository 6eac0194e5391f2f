"""main.py as people run it: from folders to weights that load, and wrong input to one line."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import SimpleITK as sitk
import torch
from PIL import Image

import main
from models.pcrlv2_model_3d import PCRLv23d
from models.pretrained import load_encoder
from tests.model_cards import run_card
from tests.programs import keep_state, run
from tests.scans import lung
from utils.errors import run_command
from utils.options import parse_options
from utils.world import World

TERMS = {"total", "restoration", "intermediate_restoration", "global_similarity", "local_similarity"}


@pytest.fixture(scope="module")
def chest(tmp_path_factory):
    root = tmp_path_factory.mktemp("nih")
    (root / "images").mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        small = Image.fromarray(rng.integers(0, 255, size=(5, 4), dtype=np.uint8))
        small.resize((70 + i, 80), Image.Resampling.BICUBIC).save(root / "images" / f"0000000{i}_000.png")
    return root


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    root = tmp_path_factory.mktemp("crops")
    rng = np.random.default_rng(1)
    for i in range(3):
        (root / f"subset{i}").mkdir()
        for k in range(2):
            np.save(root / f"subset{i}" / f"scan{i}_global_{k}.npy", rng.random((2, 16, 24, 8)))
            np.save(root / f"subset{i}" / f"scan{i}_local_{k}.npy", rng.random((6, 8, 16, 8)))
    return root


def options_2d(data, output):
    return [
        "--data", data, "--output", output, "--lists", output / "lists", "--n", "chest", "--d", 2, "--b", 3,
        "--ratio", 1.0, "--workers", 0, "--global_size", 64, "--local_size", 32, "--encoder_weights", "none",
        "--log_every", 1,
    ]  # fmt: skip


def options_3d(data, output):
    return [
        "--data", data, "--output", output, "--lists", output / "lists", "--n", "luna", "--d", 3, "--b", 3,
        "--ratio", 1.0, "--workers", 0, "--log_every", 1,
    ]  # fmt: skip


def metrics(output):
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def check_records(output, *, epochs, samples):
    lines = metrics(output)
    assert [line["epoch"] for line in lines] == list(range(epochs + 1))
    for line in lines:
        assert line.keys() >= TERMS | {"learning_rate", "beta", "samples_per_second", "data_wait_share"}
        assert line["total"] == pytest.approx(sum(line[name] for name in TERMS - {"total"}), rel=1e-4)
    assert lines[-1]["learning_rate"] == 0
    about = json.loads((output / "run.json").read_text())
    assert about["status"] == "finished" and about["samples"] == samples and about["options"]["seed"] == 42
    assert any((output / "tensorboard").iterdir())


def test_2d_from_images_to_the_published_snippet(chest, tmp_path, monkeypatch, capsys):
    status, _ = run(monkeypatch, capsys, *options_2d(chest, tmp_path), "--epochs", 1)
    assert status == 0
    check_records(tmp_path, epochs=1, samples=6)
    assert len((tmp_path / "lists" / "chest_train.txt").read_text().splitlines()) == 6
    assert {path.name for path in tmp_path.glob("*.pt")} == {f"pcrlv2_chest_pretask_1.0_{i}.pt" for i in (0, 1)}
    path = tmp_path / "pcrlv2_chest_pretask_1.0_1.pt"
    checkpoint = torch.load(path)
    assert checkpoint.keys() == {"opt", "state_dict", "optimizer", "epoch"} and checkpoint["opt"]["b"] == 3
    model = smp.Unet("resnet18", in_channels=3, classes=1, encoder_weights=None, aux_params={"classes": 14})
    weights = checkpoint["state_dict"]
    weights["fc.bias"] = weights["fc.weight"] = 0
    model.encoder.load_state_dict(weights)
    encoder = load_encoder(path, dim=2)
    assert torch.equal(encoder.conv1.weight, model.encoder.conv1.weight)
    # Epoch 0 has trained: its weights are neither the first ones nor those of epoch 1, at whose rate of 0 they stay.
    first = torch.load(tmp_path / "pcrlv2_chest_pretask_1.0_0.pt")["state_dict"]
    assert torch.equal(first["conv1.weight"], weights["conv1.weight"])
    assert not torch.equal(first["bn1.running_mean"], weights["bn1.running_mean"])
    names = run_card(tmp_path, chest / "images" / "00000000_000.png", 2)
    assert torch.equal(names["encoder"].conv1.weight, encoder.conv1.weight)
    assert names["inputs"].shape == (1, 3, 64, 64) and names["features"].shape == (1, 512, 2, 2)


def test_3d_from_crops_to_the_published_snippet(crops, tmp_path, monkeypatch, capsys):
    status, _ = run(monkeypatch, capsys, *options_3d(crops, tmp_path), "--epochs", 1)
    assert status == 0
    check_records(tmp_path, epochs=1, samples=6)
    checkpoint = torch.load(tmp_path / "pcrlv2_luna_pretask_1.0_1.pt")
    model = PCRLv23d()
    model.load_state_dict(checkpoint["state_dict"])
    encoder = load_encoder(tmp_path / "pcrlv2_luna_pretask_1.0_1.pt", dim=3)
    assert torch.equal(encoder.down_tr64.ops[0].conv1.weight, model.down_tr64.ops[0].conv1.weight)
    sitk.WriteImage(sitk.GetImageFromArray(lung((40, 70, 60))), str(tmp_path / "ct.nii.gz"))
    # In windows as large as the crops.
    assert run_card(tmp_path, tmp_path / "ct.nii.gz", 3)["features"].shape == (60, 512, 2, 3, 1)


@pytest.fixture
def shallow(monkeypatch):
    """A 2D network of a third of the weights, whose states are written the quicker."""
    monkeypatch.setitem(smp.encoders.encoders["resnet18"]["params"], "layers", [1, 1, 1, 1])
    monkeypatch.setattr("models.pcrlv2_model.DECODER_CHANNELS", (32, 32, 16, 16, 16))


@pytest.mark.usefixtures("shallow")
def test_resumed_and_unbroken_runs_end_alike_and_changed_options_are_refused(chest, tmp_path, monkeypatch, capsys):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(monkeypatch, capsys, *options_2d(chest, whole), "--epochs", 2, "--workers", 1)[0] == 0
    lists = ["--lists", whole / "lists"]
    # The state within epoch 1, from which a run that was killed there goes on.
    middle = keep_state(monkeypatch, tmp_path / "middle.pt", at=(1, 1))
    assert run(monkeypatch, capsys, *options_2d(chest, broken), *lists, "--epochs", 2, "--save_minutes", 0)[0] == 0
    # With less memory a run is the same.
    third = [*options_2d(chest, tmp_path / "third"), *lists, "--epochs", 2, "--checkpoint_activations"]
    status, _ = run(monkeypatch, capsys, *third, "--resume", middle)
    assert status == 0
    name = "pcrlv2_chest_pretask_1.0_2.pt"
    weights = [torch.load(folder / name)["state_dict"] for folder in (whole, broken, tmp_path / "third")]
    for other in weights[1:]:
        assert all(torch.equal(other[key], weights[0][key]) for key in weights[0])
    status, error = run(monkeypatch, capsys, *options_2d(chest, broken), *lists, "--epochs", 3, "--resume", "auto")
    assert status == 2 and "epochs was 2" in error
    status, error = run(monkeypatch, capsys, *options_2d(chest, broken), *lists, "--epochs", 2)
    assert status == 2 and "--resume auto" in error


def test_cache_gives_the_same_images_every_epoch(chest, tmp_path, monkeypatch, capsys):
    cache = ["--cache", tmp_path / "cache", "--cache_size", 48]
    assert run(monkeypatch, capsys, *options_2d(chest, tmp_path / "a"), *cache, "--epochs", 0)[0] == 0
    shrunk = ["--image_size", 48, "--lists", tmp_path / "a" / "lists"]
    assert run(monkeypatch, capsys, *options_2d(chest, tmp_path / "b"), *shrunk, "--epochs", 0)[0] == 0
    first, second = metrics(tmp_path / "a")[0], metrics(tmp_path / "b")[0]
    assert {name: first[name] for name in TERMS} == {name: second[name] for name in TERMS}


def test_init_starts_from_weights(chest, tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, capsys, *options_2d(chest, tmp_path / "a"), "--epochs", 0)[0] == 0
    weights = tmp_path / "a" / "pcrlv2_chest_pretask_1.0_0.pt"
    init = ["--init", weights, "--epochs", 0, "--lr", 0]
    status, error = run(monkeypatch, capsys, *options_2d(chest, tmp_path / "b"), *init)
    assert status == 0 and "--init" in error
    before, after = (torch.load(p)["state_dict"] for p in (weights, tmp_path / "b" / weights.name))
    assert torch.equal(before["layer4.1.conv2.weight"], after["layer4.1.conv2.weight"])


@pytest.mark.parametrize(("typed", "resumed", "noted"), [
    ("--n chest --d 2 --encoder_weights none --lr 0.01", False, True),
    ("--n chest --d 2 --encoder_weights none --lr 0.01", True, False),
    ("--n chest --d 2 --encoder_weights none --optimizer adamw", False, False),
    ("--n chest --d 2 --encoder_weights none --init x.pt", False, False),
    ("--n chest --d 2", False, False),
    ("--n luna --d 3", False, False),
])  # fmt: skip
def test_sgd_on_random_first_weights_is_noted(capsys, typed, resumed, noted):
    options = parse_options(["--data", "D", "--output", "O", *typed.split()])
    main.note_random_start(options, World(), resumed=resumed)
    printed = capsys.readouterr().err
    assert ("--lr 0.01 may turn the first convolution into a blur" in printed) == noted == bool(printed)
    main.note_random_start(options, World(1, 2), resumed=resumed)
    assert not capsys.readouterr().err


def test_the_hub_is_asked_only_for_weights_that_are_used(monkeypatch):
    asked = []
    monkeypatch.setattr("main.PCRLv2", lambda encoder_weights: asked.append(encoder_weights))
    typed = ["--n", "chest", "--d", "2", "--data", "x", "--output", "y"]
    for more, resumed in (([], False), (["--init", "w.pt"], False), ([], True), (["--encoder_weights", "none"], False)):
        main.make_dimension(parse_options([*typed, *more]), torch.device("cpu"), resumed=resumed).build_model()
    assert asked == ["imagenet", None, None, None]


def missing_list(tmp_path):
    (tmp_path / "chest_train.txt").write_text("".join(f"{i:08}_000.png 0 1\n" for i in range(12)))
    return ["--lists", tmp_path]


WRONG = {
    "no such folder": (lambda t: ["--data", t / "nowhere"], 1, "--data: expected a folder, there is none at"),
    "an empty folder": (lambda t: ["--data", t], 1, "is empty"),
    "a list of missing files": (missing_list, 1, "6 of its 12 names are not in"),
    "d and n": (lambda t: ["--d", 3], 2, "--n chest goes with --d 2"),
    "too small a batch": (lambda t: ["--b", 1], 2, "--b: expected at least 2"),
    "no number": (lambda t: ["--epochs", "many"], 2, "--epochs: expected a number"),
    "a prefix": (lambda t: ["--weight", "x.pt"], 2, "--weight"),
    "no GPU": (lambda t: ["--device", "cuda"], 2, "expected a CUDA GPU"),
    "no GPU for a graph": (lambda t: ["--graph", "--device", "cpu"], 2, "--graph: expected a CUDA GPU, this run is on"),
    "no weights": (lambda t: ["--init", t / "no.pt"], 1, "expected a checkpoint file"),
    "no state": (lambda t: ["--resume", t / "no.pt"], 1, "expected a checkpoint file"),
    "output is a file": (lambda t: ["--output", __file__], 1, "cannot"),
    "too large a ratio": (lambda t: ["--ratio", "1.5"], 2, "--ratio: expected a number"),
    "too small a ratio": (lambda t: ["--ratio", "0.01"], 1, "--ratio: 0.01 of the names"),
    "no lists folder": (lambda t: ["--lists", Path(__file__) / "lists"], 1, "--lists: cannot make"),
}


@pytest.mark.parametrize("options, status, message", WRONG.values(), ids=WRONG)
def test_wrong_input_is_one_line(chest, tmp_path, monkeypatch, capsys, options, status, message):
    (tmp_path / "given").mkdir()
    given = options(tmp_path / "given")
    code, error = run(monkeypatch, capsys, *options_2d(chest, tmp_path / "out"), *given)
    lines = [line for line in error.splitlines() if "error:" in line]
    assert code == status and len(lines) == 1 and message in lines[0], error
    assert "Traceback" not in error


def test_a_gpu_that_is_not_there(chest, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(sys, "argv", ["main.py", *map(str, options_2d(chest, tmp_path)), "--gpus", "0,5"])
    with pytest.raises(SystemExit) as caught:
        run_command(main.main)
    assert caught.value.code == 2 and "--gpus: expected indices from 0 to 1" in capsys.readouterr().err


def test_a_hub_out_of_reach(chest, tmp_path, monkeypatch, capsys):
    def unreachable(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("models.pcrlv2_model.smp.Unet", unreachable)
    status, error = run(monkeypatch, capsys, *options_2d(chest, tmp_path), "--encoder_weights", "imagenet")
    assert status == 1 and "--encoder_weights none" in error and "Traceback" not in error


def test_too_many_broken_images_end_the_run_and_few_are_replaced(chest, tmp_path, monkeypatch, capsys):
    data = tmp_path / "images"
    data.mkdir()
    for path in (chest / "images").iterdir():
        (data / path.name).write_bytes(path.read_bytes())
    (data / "00000003_000.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    status, error = run(monkeypatch, capsys, *options_2d(data, tmp_path / "a"), "--epochs", 0)
    assert status == 1 and "--max_bad: 1 of 6 samples are broken" in error
    few = ["--epochs", 0, "--max_bad", 0.2]
    status, error = run(monkeypatch, capsys, *options_2d(data, tmp_path / "b"), *few)
    assert status == 0 and error.count("replaced a broken sample") == 1
    assert list(json.loads((tmp_path / "b" / "run.json").read_text())["bad_samples"]) == ["00000003_000.png"]


def test_help_names_every_option(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["main.py", "--help"])
    with pytest.raises(SystemExit) as caught:
        main.main()
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for name in ("--data", "--gpus", "--ratio", "--amp", "--no-amp", "--resume", "--cache"):
        assert name in text
