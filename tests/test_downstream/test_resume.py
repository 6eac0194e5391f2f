"""Fine-tuning that is stopped or killed within an epoch ends as a run that never stopped; and in mixed precision."""

import json
import math
import os
import signal

import pytest
import torch

from data.phantoms.dataset import make_xrays
from engine.trainer import Trainer
from tests.masked_images import make_masked_images
from tests.programs import run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folders by data set."""
    root = tmp_path_factory.mktemp("made")
    make_xrays(root / "nih", 12, 3, size=72)
    (root / "flat").mkdir()
    return {"chest": root / "nih", "folder": make_masked_images(root / "flat")}


def options_of(data, output, name, *more):
    return [
        "--phase", "finetune", "--data", data[name], "--output", output, "--lists", output.parent / "lists", "--n",
        name, "--d", 2, "--b", 2, "--ratio", 0, "--workers", 0, "--global_size", 32, "--lr", 1e-3, "--weight", "none",
        "--epochs", 1, *more,
    ]  # fmt: skip


class Killed(BaseException):
    """Ends the program on the spot, as SIGKILL would: nothing catches it."""


def break_at(monkeypatch, place, happens):
    """``happens()`` before the step (epoch, step) of ``place`` is taken, once."""
    train_step, due = Trainer.train_step, [place]

    def step(trainer, batch, epoch, step):
        if (epoch, step) in due:
            due.clear()
            happens()
        train_step(trainer, batch, epoch, step)

    monkeypatch.setattr(Trainer, "train_step", step)


def kill():
    raise Killed


def ends_of(output, name):
    """What a run ends with: its last weights, its best ones, and its results."""
    files = [output / f"pcrlv2_{name}_finetune_0.0_1.pt", output / "best.pt"]
    return [torch.load(file)["state_dict"] for file in files], json.loads((output / "results.json").read_text())


def lines_of(output):
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{k: line[k] for k in ("epoch", "total", "valid_loss", "best_epoch")} for line in lines]


@pytest.fixture(scope="module")
def unbroken(data, tmp_path_factory):
    """unbroken(name): the folder of a run that never stopped."""
    made = {}

    def of(name, monkeypatch, capsys):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name) / "out"
            status, error = run(monkeypatch, capsys, *options_of(data, made[name], name))
            assert status == 0, error
        return made[name]

    return of


@pytest.mark.parametrize(("name", "how"), [("chest", "SIGTERM"), ("chest", "SIGKILL"), ("folder", "SIGTERM")])
def test_broken_within_an_epoch_it_ends_as_an_unbroken_run(data, unbroken, tmp_path, monkeypatch, capsys, name, how):
    whole, broken = unbroken(name, monkeypatch, capsys), tmp_path / "broken"
    options = options_of(data, broken, name)
    with monkeypatch.context() as patched:
        if how == "SIGTERM":
            break_at(patched, (1, 1), lambda: os.kill(os.getpid(), signal.SIGTERM))
            status, error = run(patched, capsys, *options)
            # The step that was under way is still taken.
            assert status == 75 and "before epoch 1 step 2; resume with --resume auto" in error
        else:
            break_at(patched, (1, 2), kill)
            with pytest.raises(Killed):
                run(patched, capsys, *options, "--save_minutes", 0)
            capsys.readouterr()
    position = torch.load(broken / "state" / "last.pt")["position"]
    assert position == [1, 2] and not (broken / "results.json").exists()
    status, error = run(monkeypatch, capsys, *options, "--resume", "auto")
    assert status == 0 and "epoch 0:" not in error, error
    (weights, results), (expected, expected_results) = ends_of(broken, name), ends_of(whole, name)
    for found, kept in zip(weights, expected, strict=True):
        assert found.keys() == kept.keys() and all(torch.equal(found[key], kept[key]) for key in kept)
    assert results == expected_results and lines_of(broken) == lines_of(whole)


@pytest.mark.parametrize("name", ["chest", "folder"])
def test_mixed_precision(data, unbroken, tmp_path, monkeypatch, capsys, name):
    """bf16, though this CPU may only imitate it: near the run in float32, and not the same."""
    whole, out = unbroken(name, monkeypatch, capsys), tmp_path / "out"
    monkeypatch.setattr("engine.precision.cpu_has_bf16", lambda: True)
    status, error = run(monkeypatch, capsys, *options_of(data, out, name), "--amp")
    assert status == 0, error
    full, mixed = (lines_of(folder)[0]["total"] for folder in (whole, out))
    assert mixed != full and mixed == pytest.approx(full, rel=0.1)
    weights, results = ends_of(out, name)
    assert all(value.dtype != torch.bfloat16 and value.isfinite().all() for part in weights for value in part.values())
    assert math.isfinite(results["test_loss"])
