"""luna_preprocess.py --check, and main.py --check of the crops and volumes that it makes."""

import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

import luna_preprocess
from tests.dicom_slices import write_series
from tests.scans import lung, write_scan
from tests.test_checks.test_main import check, rows_of, tree

SMALL = ["--input_rows", "16", "--input_cols", "24", "--input_deps", "8", "--scale", "2", "--workers", "1"]


def preprocess(data, save, *options):
    return luna_preprocess.main(["--data", str(data), "--save", str(save), *SMALL, *map(str, options)])


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """A MetaImage, a NIfTI and a DICOM series of lungs, and a NIfTI of one value."""
    root = tmp_path_factory.mktemp("scans")
    write_scan(root / "a.mhd", lung(seed=1).clip(-1000, 700), spacing=(1.0, 1.0, 1.5))
    image = sitk.GetImageFromArray(lung((60, 105, 100), seed=2).clip(-1100, 900))
    sitk.WriteImage(sitk.DICOMOrient(image, "RAS"), str(root / "b.nii.gz"))
    write_series(root / "c", lung((60, 105, 104), seed=3).clip(-1000, 800), spacing=(1.0, 1.0, 1.0))
    return root


def test_volumes_of_all_formats_are_counted_and_nothing_is_written(scans, tmp_path, capsys):
    save = tmp_path / "save"
    assert preprocess(scans, save, "--check") == 0
    text = capsys.readouterr().out
    rows = rows_of(text)
    assert text.splitlines()[-1] == "a run would start" and rows["volumes"] == ["3"] and rows["folders"] == ["2"]
    for kind in (".mhd, 16-bit signed integer", ".nii.gz, 16-bit signed integer"):
        assert rows[kind] == ["1"]
    assert sum(name.startswith("DICOM series") for name in rows) == 1
    assert rows["x, voxels"] == ["100 – 104"] and rows["y, voxels"] == ["105 – 110"] and rows["z, mm"] == ["1 – 1.5"]
    assert rows["least value"] == ["-1057 – -1000"] and rows["largest value"] == ["40"]
    assert rows["axes LPS"] == ["2"] and rows["axes RAS"] == ["1"]
    assert rows["z, voxels of 1 mm"] == ["60 – 90"] and rows["crop pairs, up to"] == ["6"]
    assert sorted(path.name for path in save.iterdir()) == ["check.json", "check.png"]
    with Image.open(save / "check.png") as sheet:
        assert sheet.width > 4 * 144 and np.asarray(sheet).std() > 20


def test_scans_that_fail_preprocessing_fail_the_check_with_the_same_reason(scans, tmp_path, capsys):
    data, save = tmp_path / "data", tmp_path / "save"
    shutil.copytree(scans, data)
    body = np.random.default_rng(1).normal(60, 30, (60, 110, 100)).astype(np.int16)
    body[0] = -900
    write_scan(data / "body.mhd", body)
    (data / "a.raw").write_bytes((data / "a.raw").read_bytes()[:-7])
    assert preprocess(data, save, "--check") == 1
    text = capsys.readouterr().out
    rows = rows_of(text)
    assert rows["would fail"] == ["2"] and rows["volumes"] == ["4"] and rows["crop pairs, up to"] == ["4"]
    assert text.splitlines()[-1].startswith("a run would fail: --max_bad: 2 scans would fail, 1 of 4 may")
    found = json.loads((save / "check.json").read_text())["volumes"]["broken"]
    # Preprocessing says the same of them.
    assert preprocess(data, save) == 1
    assert json.loads((save / "manifest.json").read_text())["failures"] == found
    assert "cut short" in found["a"] and "no two of 500 boxes" in found["body"]
    capsys.readouterr()
    # Beside its crops, a check changes nothing.
    before = tree(save)
    assert preprocess(data, save, "--check", "--max_bad", 0.5) == 0 and tree(save) == before


def test_what_stops_preprocessing_stops_its_check(scans, tmp_path, capsys):
    assert preprocess(scans, tmp_path / "save", "--check", "--fold", 3) == 1
    assert capsys.readouterr().out.startswith("a run would fail: --fold: expected scans in subset3")
    # Refused series alone.
    shutil.copytree(scans / "c", tmp_path / "gap")
    sorted((tmp_path / "gap").iterdir())[20].unlink()
    assert preprocess(tmp_path / "gap", tmp_path / "save", "--check") == 1
    assert "expected even distances" in capsys.readouterr().out.splitlines()[-1]


def test_the_first_pair_of_the_sheet_is_the_one_that_is_cut(scans, tmp_path):
    save = tmp_path / "save"
    assert preprocess(scans, save, "--check") == 0 and preprocess(scans, save) == 0
    crop = np.load(save / "a_global_0.npy")[0]
    plane = np.repeat(crop[..., 4].T[..., None], 3, axis=2) * 255
    sheet = np.asarray(Image.open(save / "check.png")).astype(float)
    # 24 rows of 16 pixels, six times as large, below caption and name.
    shown = sheet[38:182:6, 4:100:6]
    assert abs(shown - plane.round()).max() <= 1


@pytest.mark.parametrize("kept", [[], ["--volumes"]])
def test_crops_and_whole_volumes_of_pre_training(scans, tmp_path, monkeypatch, capsys, kept):
    crops = tmp_path / "crops"
    assert preprocess(scans, crops, *kept) == 0
    capsys.readouterr()
    options = ["--data", crops, "--n", "folder", "--d", 3, "--b", 2, "--ratio", 1, "--workers", 0]
    options += ["--output", tmp_path / "out"]
    status, text, _ = check(monkeypatch, capsys, *options)
    rows = rows_of(text)
    assert status == 0 and text.splitlines()[-1] == "a run would start"
    if kept:
        assert rows["volumes"] == ["3"] and rows["samples"] == ["6"] and rows["whole volume, int16"] == ["3"]
        assert rows["z, voxels"] == ["60 – 90"]
    else:
        assert rows["crop pairs"] == rows["crop pair, float32"] == ["6"] and rows["scans"] == ["3"]
        assert [rows[f"{axis}, voxels"] for axis in "xyz"] == [["16"], ["24"], ["8"]]
    broken = next(crops.rglob("*_volume.npy" if kept else "*_local_1.npy"))
    broken.write_bytes(broken.read_bytes()[:-9])
    status, text, _ = check(monkeypatch, capsys, *options)
    # All pairs of a volume are lost with it.
    assert status == 1 and rows_of(text)["broken"] == ["2" if kept else "1"] and str(broken) in text
