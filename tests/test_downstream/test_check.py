"""main.py --check of labelled volumes and of points in scans, whose data other tests of this folder use too."""

import csv
import shutil

import numpy as np
import SimpleITK as sitk
from PIL import Image

from data.preprocess import Preprocessing
from downstream.tuned import TunedNetwork
from tests.scans import lung, write_scan
from tests.test_checks.test_main import check, rows_of
from tests.test_downstream.test_predict import save_tuned
from utils.options import CLASSIFICATION, SEGMENTATION

COMMON = ["--d", 3, "--ratio", 0, "--b", 2, "--workers", 0, "--weight", "none", "--crop", 16, 16, 16]


def test_candidates_are_samples_of_their_scans(luna, tmp_path, monkeypatch, capsys):
    root = tmp_path / "luna"
    shutil.copytree(luna, root)
    options = ["--phase", "finetune", "--n", "luna", "--data", root, *COMMON]
    status, text, _ = check(monkeypatch, capsys, *options, "--output", tmp_path / "a")
    rows = rows_of(text)
    assert status == 0 and sum(map(int, rows["scans"])) == 9 and sum(map(int, rows["samples"])) == 63
    assert [cell.split(" of ")[0] for cell in rows["label nodule"]] == [str(2 * int(n)) for n in rows["scans"]]
    # A point beside its scan loses one sample, a damaged scan all of its seven.
    with open(root / "candidates_V2.csv", "a", newline="") as file:
        csv.writer(file).writerow(["1.3.6.7", 900, 0, 0, 0])
    (root / "subset8" / "1.3.6.8.raw").write_bytes(b"short")
    status, text, _ = check(monkeypatch, capsys, *options, "--output", tmp_path / "b")
    assert status == 1 and rows_of(text)["broken"] == ["8"]
    assert "8 of 15 samples to evaluate are broken" in text.splitlines()[-1]
    assert "expected candidates within the scan" in text


def test_cases_of_several_channels_and_regions(tmp_path, monkeypatch, capsys):
    label, rng = np.zeros((16, 18, 20), np.uint8), np.random.default_rng(0)
    label[4:12, 3:13, 2:12], label[5:11, 4:12, 3:11], label[7:9, 6:11, 4:10] = 2, 1, 4
    for i in range(5):
        for kind in ("t1", "t2", "flair", "t1ce", "seg"):
            volume = (100 * label + rng.integers(0, 90, label.shape)).astype(np.int16) if kind != "seg" else label
            (tmp_path / "HGG" / f"B{i}").mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(volume), str(tmp_path / f"HGG/B{i}/B{i}_{kind}.nii.gz"))
    options = ["--phase", "finetune", "--n", "brats", "--data", tmp_path, *COMMON, "--output", tmp_path / "out"]
    status, text, _ = check(monkeypatch, capsys, *options)
    rows = rows_of(text)
    assert status == 0 and rows["cases"] == rows["patients"] == rows["with ET"] == ["3", "1", "1"]
    assert [rows[f"{axis}, voxels"] for axis in "xyz"] == [["20"] * 3, ["18"] * 3, ["16"] * 3]
    sheet = np.asarray(Image.open(tmp_path / "out" / "check.png"))
    # Four channels and, right of them, the borders of three regions.
    colours = [set(map(tuple, half.reshape(-1, 3).tolist())) for half in (sheet[:, :592], sheet[:, 592:])]
    regions = {(213, 94, 0), (86, 180, 233), (240, 228, 66)}
    assert not regions & colours[0] and regions <= colours[1]


def test_labelled_volumes(tmp_path, monkeypatch, capsys):
    root = tmp_path / "data"
    root.mkdir()
    rows = [("file", "ill")]
    for i in range(10):
        write_scan(root / f"{i}.mhd", lung((20, 24, 22 + i), seed=i).clip(-1000, 500))
        rows.append((f"{i}", i % 2))
    with open(root / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    for phase in ("finetune", "probe"):
        options = ["--phase", phase, "--n", "folder", "--data", root, *COMMON, "--output", tmp_path / phase]
        status, text, _ = check(monkeypatch, capsys, *options)
        found = rows_of(text)
        assert status == 0 and sum(map(int, found["volumes"])) == 10, text
        assert sum(int(cell.split(" of ")[0]) for cell in found["label ill"]) == 5
        assert found["axes LPS"] == found["volumes"] and found["least value"][0].startswith("-1000")


def test_predictions_of_masks_of_volumes_and_of_points(tmp_path, monkeypatch, capsys):
    root, window = tmp_path / "own", (16, 16, 16)
    root.mkdir()
    for i in range(2):
        write_scan(root / f"{i}.mhd", lung((20, 24, 22 + i), seed=i).clip(-1000, 500))
    with open(root / "candidates.csv", "w", newline="") as file:
        centre = (10, 10, 10)
        csv.writer(file).writerows([("file", "coordX", "coordY", "coordZ"), ("0", *centre), ("1", 900, 0, 0)])
    cubes = Preprocessing(3, window, "ct")
    networks = {
        "masks": TunedNetwork(SEGMENTATION, "folder", ("lung",), cubes._replace(whole=True), (1,)),
        "volumes": TunedNetwork(CLASSIFICATION, "folder", ("ill",), cubes),
        "points": TunedNetwork(CLASSIFICATION, "luna", ("nodule",), cubes),
    }
    for kind, network in networks.items():
        save_tuned(tmp_path / "best.pt", network)
        options = ["--phase", "predict", "--weight", tmp_path / "best.pt", "--data", root, "--workers", 0]
        status, text, _ = check(monkeypatch, capsys, *options, "--output", tmp_path / kind)
        # One of two points is outside of its scan, more than --max_bad allows.
        assert status == (1 if kind == "points" else 0), text
        assert ("expected candidates within the scan" in text) == (kind == "points")
        assert (tmp_path / kind / "check.png").exists() and "patients" not in rows_of(text)
        assert rows_of(text)["x, voxels"] == ["22 – 23"], text
