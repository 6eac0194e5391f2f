"""The card of a finished run, from its folder."""

import json
from typing import Any

import pytest

from engine.model_card import CARD, write_model_card
from tests.model_cards import read_card
from utils.checkpoints import save_checkpoint
from utils.errors import UserError

PRETRAINED: dict[str, Any] = {
    "options": {
        "model": "pcrlv2", "phase": "pretask", "n": "luna", "d": 3, "b": 32, "epochs": 240, "lr": 0.001, "ratio": 1.0,
        "seed": 42, "optimizer": "adamw", "data": "/home/me/crops", "init": "/home/me/first.pt", "workers": 4,
        "loss_weights": [1.0, 0.5, 1.0, 1.0],
    },
    "version": "1.1.0", "git_revision": "abc123", "samples": 9968, "list": "ff00", "bad_samples": {"x": "cut short"},
    "status": "finished",
}  # fmt: skip
EPOCH = {"epoch": 240, "total": -1.25, "restoration": 0.01, "learning_rate": 0.0, "probe/knn_auroc": 0.71, "beta": 0.0}
TUNED = {
    "options": {**PRETRAINED["options"], "phase": "finetune", "n": "lits", "weight": "/home/me/LUNA.pt"},
    "version": "1.1.0", "git_revision": None, "samples": 70, "validation_samples": 10, "test_samples": 26,
    "test": "the folder test", "list": "ee", "match": "48 of 90 entries matched", "status": "finished",
}  # fmt: skip
RESULTS = {
    "best_epoch": 7, "test_images": 26, "test_patients": 25, "hd95_unit": "mm",
    "dice": {"liver": {"value": 0.91234, "low": 0.9, "high": 0.92}, "lesion": {"value": None, "low": None}},
    "mean_dice": {"value": 0.9, "low": None, "high": None}, "empty_regions": {"liver": {"missed": 1}},
}  # fmt: skip


def folder_of(folder, run, epoch=EPOCH, results=None):
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "metrics.jsonl").write_text(json.dumps(epoch | {"epoch": 239, "total": 5.5}) + "\n" + json.dumps(epoch))
    if results:
        (folder / "results.json").write_text(json.dumps(results))
    return folder


def test_pre_training_says_data_settings_and_its_last_epoch(tmp_path):
    assert write_model_card(folder_of(tmp_path, PRETRAINED))
    text = read_card(tmp_path)
    for line in (
        "# pcrlv2_luna_pretask_1.0_240.pt", "- data set (`--n`): luna", "- samples to train on: 9968",
        "- broken samples left out: 1", "| `--b` | 32 |", "| `--optimizer` | adamw |", "| `--init` | first.pt |",
        "| `--loss_weights` | 1 0.5 1 1 |", "| total | -1.25 |", "| probe/knn_auroc | 0.71 |",
    ):  # fmt: skip
        assert line in text.splitlines(), line
    assert "Made by PCRLv2 1.1.0 (git abc123)." in text
    assert not {"/home", "learning_rate", "`--workers`"} & set(text.split()) and "/home" not in text


@pytest.mark.parametrize("channels", [1, 4])
def test_fine_tuning_says_its_results_and_where_it_started(tmp_path, channels):
    record = {"task": "segmentation", "outputs": ["liver", "lesion"], "channels": channels}
    save_checkpoint(tmp_path / "best.pt", {"state_dict": {}, "record": record})
    assert write_model_card(folder_of(tmp_path, TUNED, results=RESULTS))
    text = read_card(tmp_path)
    for line in (
        "# best.pt", "- samples to train on: 70", "- samples to choose the epoch: 10", "- samples to test: 26",
        "- started from: LUNA.pt, 48 of 90 entries matched", "| dice liver | 0.9123 (0.9000–0.9200) |",
        "| mean_dice | 0.9000 |",
        "Test split, 26 images of 25 patients, with 95 % intervals over patients; best epoch 7.",
    ):  # fmt: skip
        assert line in text.splitlines(), line
    assert "Network of 3D segmentation; outputs: liver, lesion. Made by PCRLv2 1.1.0.\n" in text
    assert "| dice lesion" not in text and "/home" not in text
    assert "--phase predict --weight best.pt" in text
    # The files of a case are several, which `preprocess` does not read.
    assert ("import preprocess" in text) == (channels == 1) and ("The input has 4 channels" in text) == (channels == 4)
    (tmp_path / "results.json").unlink()
    assert write_model_card(tmp_path) and "The test split was not evaluated." in read_card(tmp_path)


def test_a_card_that_a_user_changed_is_kept(tmp_path, capsys):
    write_model_card(folder_of(tmp_path, PRETRAINED))
    first = read_card(tmp_path)
    # A card of ours is renewed.
    folder_of(tmp_path, PRETRAINED | {"samples": 3})
    assert write_model_card(tmp_path) and "- samples to train on: 3\n" in read_card(tmp_path) != first
    for changed in (read_card(tmp_path).replace("of the weights:", "of the weights: MIT"), "my own"):
        (tmp_path / CARD).write_text(changed)
        assert not write_model_card(tmp_path)
        assert (tmp_path / CARD).read_text() == changed
        assert f"{CARD}: changed by hand and kept as it is" in capsys.readouterr().err


@pytest.mark.parametrize("run", [None, PRETRAINED | {"status": "running"}])
def test_a_run_that_has_not_finished_has_no_card(tmp_path, run):
    if run:
        folder_of(tmp_path, run)
    with pytest.raises(UserError, match="expected the folder of a finished run"):
        write_model_card(tmp_path)
    assert not (tmp_path / CARD).exists()
