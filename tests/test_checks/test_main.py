"""main.py --check: what it counts, shows and refuses, and that it leaves a run's output as it is."""

import csv
import json
import os
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

import main
from checks.sheet import HEIGHT
from data.preprocess import Preprocessing
from downstream.tuned import TunedNetwork
from tests.dicom_files import dicom_bytes, ramp
from tests.masked_images import make_masked_images
from tests.programs import run
from utils.checkpoints import RECORD, save_checkpoint
from utils.errors import run_command

SMALL_2D = ["--d", 2, "--b", 4, "--global_size", 32, "--workers", 0]


def check(monkeypatch, capsys, *options):
    """(exit status, what is printed, the same on stderr) of main.py --check on the CPU."""
    monkeypatch.setattr(sys, "argv", ["main.py", "--device", "cpu", "--check", *map(str, options)])
    with pytest.raises(SystemExit) as caught:
        run_command(main.main)
    said = capsys.readouterr()
    return caught.value.code, said.out, said.err


def rows_of(text):
    """The table's rows, as words of each cell by the row's name."""
    cells = ([cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines())
    return {row[0]: row[1:] for row in cells if len(row) > 1}


def tree(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "check" not in path.name}


@pytest.fixture
def mixed(tmp_path):
    """Nine PNGs of 8 bits, one of 16, a JPEG and a DICOM, of two sizes; and a text."""
    root, rng = tmp_path / "mixed", np.random.default_rng(0)
    root.mkdir()
    for i in range(9):
        Image.fromarray(rng.integers(10, 200, (40, 30 + 6 * (i == 8)), dtype=np.uint8)).save(root / f"{i}.png")
    Image.fromarray(rng.integers(0, 4096, (40, 30)).astype(np.uint16)).save(root / "deep.png")
    Image.fromarray(np.full((40, 30), 7, np.uint8)).save(root / "empty.jpg")
    (root / "scan").write_bytes(dicom_bytes(ramp(40, 30, step=3), stored=12, photometric="MONOCHROME1"))
    (root / "notes.txt").write_text("no image")
    return root


def test_images_of_all_kinds_are_counted_and_shown(mixed, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    options = ["--n", "folder", "--data", mixed, "--output", out, "--ratio", 1, *SMALL_2D, "--local_size", 32]
    status, text, _ = check(monkeypatch, capsys, *options)
    assert status == 0 and text.splitlines()[-1] == "a run would start"
    rows = rows_of(text)
    assert rows["images"] == ["12"] and rows["PNG, 8 bits"] == ["9"] and rows["PNG, 16 bits"] == ["1"]
    assert rows["JPEG, 8 bits"] == rows["DICOM, MONOCHROME1, 12 bits, explicit little endian"] == ["1"]
    assert rows["width, pixels"] == ["30 – 36"] and rows["height, pixels"] == ["40"]
    # The DICOM file names its patient; the others are each one's own.
    assert rows["patients"] == ["12"] and "1 by DICOM's Patient ID (1 images)" in text
    assert rows["of one value only"] == ["1"] and "one value only, as empty images: empty.jpg" in text
    assert "12 of 13 files are images, 1 are not: left out (notes.txt)" in text
    # Nothing but the picture and the record: the run makes its lists.
    assert sorted(path.name for path in out.iterdir()) == ["check.json", "check.png"]
    record = json.loads((out / "check.json").read_text())
    assert record["splits"]["pre-training"]["least_median_largest"]["width, pixels"] == [30, 30, 36]
    with Image.open(out / "check.png") as sheet:
        # Twelve samples of five pictures, in one or two columns.
        assert sheet.height > 6 * HEIGHT and sheet.width > 5 * HEIGHT and np.asarray(sheet).std() > 20


def test_the_sheet_shows_cache_size_and_inversion(mixed, tmp_path, monkeypatch, capsys):
    """Options of the run change what is shown, and a cache is not filled."""
    options = ["--n", "folder", "--data", mixed, "--ratio", 1, *SMALL_2D, "--local_size", 32]
    sheets = {}
    for name, more in (("as is", []), ("inverted", ["--invert"]), ("seed", ["--seed", 1])):
        assert check(monkeypatch, capsys, *options, "--output", tmp_path / name, *more)[0] == 0
        sheets[name] = (tmp_path / name / "check.png").read_bytes()
    assert len(set(sheets.values())) == 3
    cache = tmp_path / "cache"
    status, text, _ = check(monkeypatch, capsys, *options, "--output", tmp_path / "c", "--cache", cache)
    assert status == 0 and not cache.exists() and rows_of(text)["width, pixels"] == ["30 – 36"]


def test_a_run_and_its_lists_stay_as_they_are(mixed, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    (out / "state").mkdir(parents=True)
    (out / "lists").mkdir()
    (out / "state" / "last.pt").write_bytes(b"a state")
    (out / "lists" / "folder_train.txt").write_text("\n".join(f"{i}.png" for i in range(6)))
    (out / ".lock").write_text("held by a run")
    before = tree(out)
    status, text, _ = check(
        monkeypatch, capsys, "--n", "folder", "--data", mixed, "--output", out, "--ratio", 1, *SMALL_2D
    )
    assert status == 0 and rows_of(text)["images"] == ["6"] and tree(out) == before
    assert text.splitlines()[-1] == f"a run would start, with --resume auto or another --output than {out}"


def test_the_picture_of_a_check_is_no_image_of_the_data(mixed, tmp_path, monkeypatch, capsys):
    options = ["--n", "folder", "--data", mixed, "--output", mixed / "out", "--ratio", 1, *SMALL_2D]
    for _ in range(2):
        status, text, _ = check(monkeypatch, capsys, *options)
        assert status == 0 and rows_of(text)["images"] == ["12"]


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_files_are_named_and_fail_a_run_that_allows_fewer(mixed, tmp_path, monkeypatch, capsys, workers):
    whole = (mixed / "3.png").read_bytes()
    (mixed / "3.png").write_bytes(whole[:-40])
    options = ["--n", "folder", "--data", mixed, "--output", tmp_path / "out", "--ratio", 1, *SMALL_2D]
    options += ["--workers", workers]
    status, text, _ = check(monkeypatch, capsys, *options)
    assert status == 1 and rows_of(text)["broken"] == ["1"]
    assert text.splitlines()[-1].startswith("a run would fail: --max_bad: 1 of 12 samples are broken")
    assert f"{mixed / '3.png'}: expected a PNG, JPEG, TIFF or DICOM image" in text
    record = json.loads((tmp_path / "out" / "check.json").read_text())
    assert list(record["splits"]["pre-training"]["broken"]) == ["3.png"]
    if not workers:
        # The run's own words.
        tiny = ["--local_size", 32, "--encoder_weights", "none", "--epochs", 0]
        error = run(monkeypatch, capsys, *options, *tiny, "--output", tmp_path / "run")[1].splitlines()[-1]
        assert error.removeprefix("main.py: error: ") == text.splitlines()[-1].removeprefix("a run would fail: ")
    assert check(monkeypatch, capsys, *options, "--max_bad", 0.1)[0] == 0


def test_what_stops_a_run_before_it_reads_stops_a_check_with_the_same_line(mixed, tmp_path, monkeypatch, capsys):
    base = ["--n", "folder", "--output", tmp_path / "out", *SMALL_2D]

    def verdict(*options):
        status, text, _ = check(monkeypatch, capsys, *base, *options)
        assert status == 1
        return text.splitlines()[-1].removeprefix("a run would fail: ")

    assert verdict("--data", tmp_path / "none") == f"--data: expected a folder, there is none at {tmp_path / 'none'}"
    assert verdict("--data", mixed, "--b", 1).startswith("--b: expected at least 2")
    assert verdict("--data", mixed, "--ratio", 0.1).startswith("--data: expected at least two samples")
    (tmp_path / "folder_train.txt").write_text("0.png\n1.png\nabsent.png\n")
    assert "1 of its 3 names are not in" in verdict("--data", mixed, "--lists", tmp_path, "--ratio", 1)
    # A table of other images.
    (mixed / "labels.csv").write_text("file,ill\nother.png,1\n")
    finetune = ["--data", mixed, "--phase", "finetune", "--weight", "none", "--ratio", 0]
    assert "expected names of images of --data, none of its 1 is one (other.png" in verdict(*finetune)
    (mixed / "labels.csv").write_text("file,ill\n" + "".join(f"{i}.png,{i % 2}\n" for i in range(9)))
    missing = tmp_path / "missing.pt"
    assert str(missing) in verdict(*finetune[:4], "--weight", missing, "--ratio", 0)


def test_labels_and_patients_of_each_split(mixed, tmp_path, monkeypatch, capsys):
    rows = [(f"{i}.png", f"p{i // 2}", i % 2 if i else "") for i in range(9)]
    with open(mixed / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "patient", "ill"), *rows])
    options = ["--n", "folder", "--data", mixed, *SMALL_2D]
    status, text, _ = check(monkeypatch, capsys, *options, "--ratio", 1, "--output", tmp_path / "p")
    # Nine images of five patients by the table, and three others.
    assert status == 0 and rows_of(text)["patients"] == ["8"]
    options += ["--ratio", 0, "--weight", "none"]
    status, text, _ = check(monkeypatch, capsys, *options, "--phase", "finetune", "--output", tmp_path / "a")
    found = rows_of(text)
    assert status == 0 and "3 without (deep.png, empty.jpg, scan)" in text
    assert sum(map(int, found["images"])) == 8 and sum(map(int, found["patients"])) == 5
    known = [tuple(map(int, cell.split(" of "))) for cell in found["label ill"]]
    assert np.array(known).sum(axis=0).tolist() == [4, 8]
    status, text, _ = check(monkeypatch, capsys, *options, "--phase", "probe", "--output", tmp_path / "b")
    assert status == 0 and rows_of(text)["images"] == found["images"]
    # One split's broken file is a third of it.
    shutil.copy(mixed / "notes.txt", mixed / "8.png")
    status, text, _ = check(monkeypatch, capsys, *options, "--phase", "finetune", "--output", tmp_path / "c")
    assert status == 1 and "8.png: expected a PNG" in text.splitlines()[-1]


def test_masks_are_counted_and_shown(tmp_path, monkeypatch, capsys):
    root = tmp_path / "masked"
    root.mkdir()
    make_masked_images(root)
    options = ["--phase", "finetune", "--n", "folder", "--data", root, "--ratio", 0, "--weight", "none", *SMALL_2D]
    status, text, _ = check(monkeypatch, capsys, *options, "--output", tmp_path / "a")
    rows = rows_of(text)
    assert status == 0 and rows["cases"] == rows["with class_1"] == rows["with class_2"] == ["6", "2", "2"]
    colours = np.asarray(Image.open(tmp_path / "a" / "check.png")).reshape(-1, 3)
    assert {(213, 94, 0), (86, 180, 233)} <= set(map(tuple, colours.tolist()))
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(root / "masks" / "x1.png")
    status, text, _ = check(monkeypatch, capsys, *options, "--output", tmp_path / "b")
    assert status == 1 and "masks/x1.png: expected a mask of the size of" in text.splitlines()[-1]


def test_predictions_and_features_are_checked_by_their_weights(mixed, tmp_path, monkeypatch, capsys):
    network = TunedNetwork("classification", "folder", ("ill",), Preprocessing(2, (32, 32), "file"))
    weights = tmp_path / "best.pt"
    save_checkpoint(weights, {"state_dict": network.build().state_dict(), RECORD: network.as_record()})
    common = ["--data", mixed, "--weight", weights, "--workers", 0]
    for phase, more in (("predict", []), ("features", ["--n", "folder", "--d", 2, "--global_size", 32])):
        out = tmp_path / phase
        status, text, _ = check(monkeypatch, capsys, "--phase", phase, *common, *more, "--output", out)
        assert status == 0 and rows_of(text)["files"] == ["12"], text
        assert sorted(path.name for path in out.iterdir()) == ["check.json", "check.png"]
    # Names need not be UTF-8, in the picture or on the screen.
    (mixed / os.fsdecode(b"good\xff.png")).write_bytes((mixed / "1.png").read_bytes())
    (mixed / os.fsdecode(b"bad\xff.png")).write_bytes((mixed / "1.png").read_bytes()[:-500])
    status, text, _ = check(monkeypatch, capsys, "--phase", "predict", *common, "--output", tmp_path / "o")
    assert status == 1 and "1 of 14 samples to evaluate are broken" in text.splitlines()[-1]
    assert f"{mixed}/bad\\udcff.png: expected" in text
