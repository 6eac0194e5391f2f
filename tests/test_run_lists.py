"""Lists as runs make and find them: in OUTPUT/lists, never in the checkout, and again when a run needs them."""

import csv
import json
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
from PIL import Image

from tests.programs import run

ROOT = Path(__file__).parent.parent
SIZES = ["--b", 2, "--workers", 0, "--epochs", 0, "--global_size", 64, "--d", 2, "--n", "chest", "--ratio", 0.5]
PRETRAIN = [*SIZES, "--local_size", 32, "--encoder_weights", "none"]


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    """A network of a third of the weights, whose states are written the quicker."""
    monkeypatch.setitem(smp.encoders.encoders["resnet18"]["params"], "layers", [1, 1, 1, 1])
    monkeypatch.setattr("models.pcrlv2_model.DECODER_CHANNELS", (32, 32, 16, 16, 16))


def write_nih(root, patients):
    """Two images a patient, and their table."""
    names = [f"{patient:08}_{visit:03}.png" for patient in patients for visit in range(2)]
    (root / "images").mkdir(parents=True)
    for i, name in enumerate(names):
        Image.linear_gradient("L").rotate(7 * i).resize((70, 66)).save(root / "images" / name)
    with open(root / "Data_Entry_2017.csv", "w", newline="") as file:
        rows = [(name, "Mass" if i % 2 else "No Finding") for i, name in enumerate(names)]
        csv.writer(file).writerows([("Image Index", "Finding Labels"), *rows])
    return root


def in_checkout():
    return {path for folder in (ROOT, ROOT / "train_val_txt") for path in folder.iterdir()}


def test_lists_stay_with_the_run_that_made_them(tmp_path, monkeypatch, capsys):
    before = in_checkout()
    one, other = write_nih(tmp_path / "one", range(20)), write_nih(tmp_path / "other", range(50, 70))
    first, second, tuned = tmp_path / "first", tmp_path / "second", tmp_path / "tuned"

    def stderr_of(*options):
        status, error = run(monkeypatch, capsys, *options)
        assert status == 0, error
        return error

    for data, output in ((one, first), (other, second)):
        error = stderr_of(*PRETRAIN, "--data", data, "--output", output)
        listed = (output / "lists" / "chest_train.txt").read_text().splitlines()
        assert f"made {output}/lists/chest_train.txt" in error and {p.name for p in (output / "lists").iterdir()} == {
            f"chest_{split}.txt" for split in ("train", "valid", "test")
        }
        assert json.loads((output / "run.json").read_text())["samples"] == len(listed) // 2 > 5
        assert f"{output}/lists/chest_train.txt: {len(listed)} of {len(listed)} names in --data; 40 of 40" in error
    # Resumed on a folder that has grown since, a run keeps its list, and reports what is not in it.
    (grown := one / "images" / "00000099_000.png").write_bytes((one / "images" / "00000000_000.png").read_bytes())
    error = stderr_of(*PRETRAIN, "--data", one, "--output", first, "--resume", "auto")
    assert "made " not in error and f"40 of 41 images of --data in a list, 1 images in no list ({grown.name})" in error
    # Fine-tuning finds the list beside the weights, and trains on what they have not seen.
    weight = first / "pcrlv2_chest_pretask_0.5_0.pt"
    fine = ["--phase", "finetune", *SIZES, "--weight", weight, "--lr", 1e-4]
    error = stderr_of(*fine, "--data", one, "--output", tuned)
    assert f"{first}/lists/chest_train.txt: " in error and not (tuned / "lists").exists()
    with open(tuned / "predictions.csv", newline="") as file:
        tested = {row["name"] for row in csv.DictReader(file)}
    assert tested == {line.split()[0] for line in (first / "lists" / "chest_test.txt").read_text().splitlines()}
    # On other data than the weights', the list beside them is not used.
    error = stderr_of(*fine, "--data", other, "--output", tmp_path / "moved")
    assert "of other data, it is not used" in error and (tmp_path / "moved" / "lists" / "chest_train.txt").exists()
    assert in_checkout() == before


def test_missing_images_are_told_and_left_out_up_to_max_bad(tmp_path, monkeypatch, capsys):
    data, lists = write_nih(tmp_path / "nih", range(10)), tmp_path / "lists"
    lists.mkdir()
    names = [*(path.name for path in sorted((data / "images").iterdir())), "gone.png"]
    (lists / "chest_train.txt").write_text("".join(f"{name}\n" for name in names[::-1]))
    options = [*PRETRAIN, "--data", data, "--lists", lists]
    status, error = run(monkeypatch, capsys, *options, "--output", tmp_path / "refused")
    assert status == 1 and "1 of its 10 names are not in" in error and "--max_bad 0.1\n" in error
    status, error = run(monkeypatch, capsys, *options, "--output", tmp_path / "out", "--max_bad", 0.1)
    assert status == 0 and "20 of 21 names in --data, 1 not (gone.png)" in error
    assert json.loads((tmp_path / "out" / "run.json").read_text())["samples"] == 9
    # Once it is there, the list of samples is another one.
    (data / "images" / "gone.png").write_bytes((data / "images" / names[0]).read_bytes())
    status, error = run(monkeypatch, capsys, *options, "--output", tmp_path / "out", "--resume", "auto")
    assert status == 2 and "the list of samples was" in error
