"""How crops were made goes with the weights: to features, and to exports."""

import json

import pytest
import torch

import luna_preprocess
from data.catalog.list_folders import ListFolders
from data.crop_facts import describe_crops
from data.datasets.pretraining import open_dataset
from data.fresh_crops import FreshCrops
from data.preprocess import PRETRAINED, preprocessing_of
from models.weight_facts import facts_of
from tests.narrow_main import NarrowPCRLv23d
from tests.programs import run
from tests.scans import lung, write_scan
from utils.checkpoints import save_checkpoint

SMALL = ["--input_rows", "16", "--input_cols", "24", "--input_deps", "8", "--scale", "2", "--workers", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("scans")
    for name in ("a", "b"):
        (root / name).mkdir()
        write_scan(root / name / f"{name}.mhd", lung((60, 110, 100), seed=ord(name)), spacing=(1.375, 1.25, 1.125))
    return root


def preprocess(data, save, *options):
    assert luna_preprocess.main(["--data", str(data), "--save", str(save), *SMALL, *options]) == 0
    return save


def open_crops(root, lists):
    lists.mkdir(exist_ok=True)
    return open_dataset(name="folder", root=root, lists=ListFolders.at(lists), ratio=1.0, seed=1, dim=3)


def test_weights_say_how_their_crops_were_made(data, tmp_path, monkeypatch, capsys):
    crops = preprocess(data, tmp_path / "crops", "--intensity", "percentiles", "--spacing", "1.5")
    monkeypatch.setattr("main.PCRLv23d", NarrowPCRLv23d)
    options = "--n folder --d 3 --b 2 --epochs 0 --workers 0 --swaps 4 --ratio 1.0"
    typed = ["--data", crops, *options.split()]
    assert run(monkeypatch, capsys, *typed, "--output", tmp_path / "out")[0] == 0
    made = {"window": [16, 24, 8], "intensity": "percentiles", "spacing": 1.5}
    assert json.loads((tmp_path / "out" / "run.json").read_text())["crops"] == made
    weights = tmp_path / "out" / "pcrlv2_folder_pretask_1.0_0.pt"
    expected = PRETRAINED[3]._replace(window=(16, 24, 8), intensity="percentiles", spacing=1.5)
    assert preprocessing_of(weights, 3) == expected
    exported = facts_of(weights, dim=3, channels=1, norm="bn")["preprocessing"]
    assert exported.items() >= {"window": [16, 24, 8], "intensity": "percentiles", "spacing_mm": 1.5}.items()
    assert not exported.keys() & {"assumed", "hu_window"}


def test_fresh_crops_say_the_same_as_crops(data, tmp_path):
    volumes = open_crops(preprocess(data, tmp_path / "volumes", "--volumes"), tmp_path / "lists")
    crops = open_crops(preprocess(data, tmp_path / "crops"), tmp_path / "lists")
    assert describe_crops(FreshCrops(volumes, seed=1)) == describe_crops(crops)
    assert describe_crops(crops) == {"crops": {"window": [16, 24, 8], "intensity": "ct", "spacing": 1.0}}


def test_a_long_name_of_a_scan_hides_nothing(tmp_path):
    """The record of such a scan has a digest as its name."""
    (tmp_path / "data").mkdir()
    name = "n" * 170
    write_scan(tmp_path / "data" / f"{name}.mhd", lung((60, 110, 100), seed=1), spacing=(1.375, 1.25, 1.125))
    crops = open_crops(preprocess(tmp_path / "data", tmp_path / "crops", "--spacing", "1.5"), tmp_path / "lists")
    made = {"crops": {"window": [16, 24, 8], "intensity": "ct", "spacing": 1.5}}
    assert not (tmp_path / "crops" / f"{name}.json").exists() and describe_crops(crops) == made
    preprocess(tmp_path / "data", tmp_path / "volumes", "--volumes", "--spacing", "1.5")
    assert describe_crops(FreshCrops(open_crops(tmp_path / "volumes", tmp_path / "lists"), seed=1)) == made


def test_what_is_not_known_is_not_said(data, tmp_path, capsys):
    one = preprocess(data / "a", tmp_path / "crops" / "a", "--spacing", "1.25")
    preprocess(data / "b", tmp_path / "crops" / "b")
    assert describe_crops(open_crops(tmp_path / "crops", tmp_path / "lists")) == {"crops": {"window": [16, 24, 8]}}
    assert "made in several ways (ct at 1 mm, ct at 1.25 mm)" in capsys.readouterr().err
    for path in one.glob("*.json"):  # as crops of the published program, which have no records
        path.unlink()
    assert describe_crops(open_crops(one, tmp_path / "one")) == {"crops": {"window": [16, 24, 8]}}
    weights = tmp_path / "old.pt"
    save_checkpoint(weights, {"state_dict": {"x": torch.zeros(1)}, "opt": {"d": 3, "crops": {"window": [16, 24, 8]}}})
    assert preprocessing_of(weights, 3) == PRETRAINED[3]._replace(window=(16, 24, 8))
    assert "assumed" in facts_of(weights, dim=3, channels=1, norm="bn")["preprocessing"]
