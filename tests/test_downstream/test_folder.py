"""A user's own folder from the command line: its labels are classified and probed, or its masks segmented."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from data.readers.images import read_grey
from tests.masked_images import make_masked_images
from tests.programs import run


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """40 images of 20 patients in folders, bright ones with ``mass``; some lack a label, 0 and 35 both."""
    root = tmp_path_factory.mktemp("own")
    rng, rows = np.random.default_rng(0), []
    for i in range(40):
        name, mass = f"patient {i // 2}/{i}.png", int(rng.integers(2))
        pixels = rng.integers(0, 60, (44, 37 + i % 3), dtype=np.uint8)
        pixels[10:30, 10:30] += np.uint8(150 * mass)
        (root / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(root / name)
        rows.append([name, "BACTERIA", mass if i % 5 else "", i // 2 % 2 if i % 7 else ""])
    with open(root / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "label", "mass", "other"), *rows])
    for split, numbers in (("train", range(26)), ("valid", range(26, 32)), ("test", range(32, 40))):
        names = [rows[i][0].replace(" ", "%20") for i in numbers]
        (root / f"folder_{split}.txt").write_text("\n".join(names))
    return root


def options_of(data, output, lists, phase="finetune"):
    return [
        "--phase", phase, "--data", data, "--output", output, "--lists", lists, "--n", "folder", "--d", 2, "--b", 4,
        "--ratio", 0, "--workers", 0, "--global_size", 32, "--weight", "none",
    ]  # fmt: skip


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def check_predictions(rows):
    assert [row["name"] for row in rows] == [f"patient {i // 2}/{i}.png" for i in range(32, 40) if i != 35]
    for row in rows:
        number = int(row["name"].split("/")[1].removesuffix(".png"))
        assert (row["label_mass"] == "") == (number % 5 == 0)
        assert row["label_other"] == (str(number // 2 % 2) if number % 7 else "")


def test_labels_of_a_table_are_classified(own, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    status, error = run(monkeypatch, capsys, *options_of(own, out, own), "--epochs", 0)
    assert status == 0, error
    assert "25 samples to train on, 6 to choose the epoch, 7 to test (folder_test.txt)" in error
    assert "2 columns are labels (mass, other); not those without 0 and 1: label\n" in error
    results = json.loads((out / "results.json").read_text())
    assert results["auroc"].keys() | results["without_auroc"].keys() == {"mass", "other"}
    assert results["test_images"] == 7 and results["test_patients"] == 4
    check_predictions(rows_of(out / "predictions.csv"))


def test_a_folder_pre_trains_from_a_cache_and_its_encoder_is_tuned_on_the_rest(own, tmp_path, monkeypatch, capsys):
    data, first, skip = tmp_path / "data", tmp_path / "first", tmp_path / "skip.txt"
    shutil.copytree(own, data)
    (data / "patients.csv").write_text("file,view\n" + "".join(f"{i},{'PA' if i % 4 else 'AP'}\n" for i in range(40)))
    skip.write_text("patient%201/2.png\n")
    options = [
        "--data", data, "--output", first, "--n", "folder", "--d", 2, "--b", 4, "--ratio", 0.5, "--workers", 0,
        "--global_size", 64, "--local_size", 32, "--encoder_weights", "none", "--epochs", 0, "--views", "pa,LL",
        "--skip", skip, "--invert", "--intensity", "percentiles", "--cache", tmp_path / "cache",
    ]  # fmt: skip
    status, error = run(monkeypatch, capsys, *options)
    assert status == 0, error
    assert "--views pa,LL: 30 of 40 images of these views, 10 not: left out" in error
    listed = [name.replace("%20", " ") for name in (first / "lists" / "folder_train.txt").read_text().splitlines()]
    number = {name: int(name.split("/")[1].removesuffix(".png")) for name in listed}
    used = [name for name in listed[:20] if number[name] % 4 and number[name] != 2]
    assert json.loads((first / "run.json").read_text())["samples"] == len(used)
    (pixels,) = (tmp_path / "cache").glob("*_512_percentiles_inverted.pixels")
    cached = np.memmap(pixels, np.uint8, "r", shape=(len(used), 512, 512))
    expected = [read_grey(data / name, intensity="percentiles", invert=True) for name in used]
    assert all(np.array_equal(a[: b.shape[0], : b.shape[1]], b) for a, b in zip(cached, expected, strict=True))
    tuned = [*options_of(data, tmp_path / "out", own)[:-2], "--weight", first / "pcrlv2_folder_pretask_0.5_0.pt"]
    tuned = [*tuned, "--epochs", 0, "--ratio", 0.5, "--skip", skip]
    tuned.remove("--lists"), tuned.remove(own)
    status, error = run(monkeypatch, capsys, *tuned)
    assert status == 0 and f"{first}/lists/folder_train.txt: 40 of 40 names in --data" in error, error
    samples = [json.loads((tmp_path / "out" / "run.json").read_text())[name]
               for name in ("samples", "validation_samples", "test_samples")]  # fmt: skip
    labelled = [name for name in listed[20:] if number[name] not in (0, 2, 35)]
    assert sum(samples) == len(labelled) and "120 of 120 entries matched" in error


def test_labels_of_a_table_are_probed(own, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    options = [*options_of(own, out, own, "probe"), "--probe_neighbours", 3]
    status, error = run(monkeypatch, capsys, *options)
    assert status == 0, error
    assert "25 samples to learn from, 6 to choose the regularisation, 7 to test (folder_test.txt)" in error
    for kind in ("knn", "linear"):
        check_predictions(rows_of(out / f"predictions_{kind}.csv"))


def test_the_task_is_that_of_the_files_and_options_that_do_not_fit_are_refused(own, tmp_path, monkeypatch, capsys):
    masked = tmp_path / "masked"
    masked.mkdir()
    make_masked_images(masked)
    bare = tmp_path / "bare"
    (bare / "sub").mkdir(parents=True)
    Image.new("L", (9, 9)).save(bare / "sub" / "x.png")

    def error_of(data, *options):
        status, error = run(monkeypatch, capsys, *options_of(data, tmp_path / "out", tmp_path), *options)
        lines = [line for line in error.splitlines() if "error:" in line]
        assert status in (1, 2) and len(lines) == 1, error
        return lines[0]

    assert "has neither; see docs/data.md" in error_of(bare)
    assert "--cache is not for classification" in error_of(own, "--cache", tmp_path / "cache")
    assert "--save_masks is not for classification" in error_of(own, "--save_masks")
    (masked / "labels.csv").write_text("file,a\n" + "".join(f"x{i}.png,{i // 2 % 2}\n" for i in range(10)))
    assert "has both; give --task segmentation or --task classification" in error_of(masked)
    options = [*options_of(masked, tmp_path / "chosen", tmp_path), "--epochs", 0, "--task", "classification"]
    status, error = run(monkeypatch, capsys, *options)
    results = json.loads((tmp_path / "chosen" / "results.json").read_text())
    assert status == 0 and results["auroc"].keys() | results["without_auroc"].keys() == {"a"}, error
    # A table without labels is one of patients alone.
    (masked / "labels.csv").write_text("file,patient\n" + "".join(f"x{i}.png,q{i}\n" for i in range(10)))
    options = [*options_of(masked, tmp_path / "segmented", tmp_path), "--epochs", 0]
    status, error = run(monkeypatch, capsys, *options)
    assert status == 0 and "dice" in json.loads((tmp_path / "segmented" / "results.json").read_text()), error
