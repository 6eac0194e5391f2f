"""Which cases and splits the crops of BraTS, LiTS and own folders belong to, as fine-tuning names them."""

import numpy as np
import pytest

from data.catalog.crop_sets import CROP_SETS
from data.catalog.list_folders import ListFolders
from data.catalog.lists import read_names
from data.catalog.xray_dataset import Selection
from data.datasets.brats import find_brats
from data.datasets.lits import find_lits
from data.datasets.pretraining import open_dataset
from utils.errors import UserError


def write_crops(root, *scans):
    for scan in scans:
        (root / scan).parent.mkdir(parents=True, exist_ok=True)
        np.save(root / f"{scan}_global_0.npy", np.full((2, 8, 8, 8), 0.5, np.float32))
        np.save(root / f"{scan}_local_0.npy", np.full((6, 8, 8, 8), 0.5, np.float32))
    return root


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def open_crops(name, root, lists, **options):
    settings = {"name": name, "root": root, "lists": ListFolders.at(lists), "ratio": 1.0, "seed": 4, "dim": 3}
    return open_dataset(**settings | options)


def names_of(dataset):
    return sorted({crop.name.removesuffix("_global_0.npy") for crop in dataset.crops})


def test_patients_of_brats_pretrain_with_all_their_images(tmp_path, capsys):
    kinds = ("t1", "t2", "flair", "t1ce")
    scans = [f"{grade}/{patient}/{patient}_{kind}" for grade, patient in (("HGG", "p1"), ("LGG", "p2"), ("LGG", "p3"))
             for kind in kinds]  # fmt: skip
    root = write_crops(tmp_path / "crops", *scans)
    dataset = open_crops("brats", root, tmp_path / "lists", ratio=0.67)
    listed = list(read_names(tmp_path / "lists" / "brats_train.txt"))
    images = touch(tmp_path / "brats", *(f"{scan}.nii.gz" for scan in scans),
                   *(f"{scan.rpartition('_')[0]}_seg.nii.gz" for scan in scans[::4]))  # fmt: skip
    assert sorted(listed) == sorted(case.name for case in find_brats(images).cases)
    assert len(dataset) == 8 and {name.split("/")[1] for name in names_of(dataset)} == set(listed[:2])
    assert "3 of 3 scans of --data in a list" in capsys.readouterr().err


def test_the_test_scans_of_lits_do_not_pretrain(tmp_path, capsys):
    scans = ["train/CT/volume-10", "train/CT/volume3", "test/CT/volume-10"]
    dataset = open_crops("lits", write_crops(tmp_path / "crops", *scans), tmp_path / "lists")
    assert names_of(dataset) == scans[:2]
    assert f"{tmp_path}/crops: 1 scans in test are for testing, and not pre-trained on" in capsys.readouterr().err
    masks = ["train/seg/segmentation-10", "train/seg/segmentation3", "test/seg/segmentation-10"]
    layout = find_lits(touch(tmp_path / "lits", *(f"{name}.nii" for name in scans + masks)))
    listed = set(read_names(tmp_path / "lists" / "lits_train.txt"))
    assert listed == {case.name for case in layout.cases} - set(layout.test)
    with pytest.raises(UserError, match=r"--data: expected \*_global_\*.npy of luna_preprocess.py in "):
        open_crops("lits", write_crops(tmp_path / "tests", *scans[2:]), tmp_path / "other")


def test_all_of_an_own_folder_pretrains_but_what_is_skipped(tmp_path, capsys):
    root = write_crops(tmp_path / "crops", "subset8/a", "site A/b", "site A/c", "b")
    assert names_of(open_crops("folder", root, tmp_path / "lists")) == ["b", "site A/b", "site A/c", "subset8/a"]
    assert set(read_names(tmp_path / "lists" / "folder_train.txt")) == {"b", "site%20A/b", "site%20A/c", "a"}
    (tmp_path / "skip.txt").write_text("site%20A/b\nnone\n")
    dataset = open_crops("folder", root, tmp_path / "lists", selection=Selection(None, tmp_path / "skip.txt"))
    assert names_of(dataset) == ["b", "site A/c", "subset8/a"]
    assert "skip.txt: 1 of 2 names in --data: left out, 1 not (none)" in capsys.readouterr().err


def test_cases_and_splits_by_name():
    brats, lits, luna = (CROP_SETS[name] for name in ("brats", "lits", "luna"))
    assert brats.case_of("Data/HGG/ID_1/ID_1_t1") == "ID_1" and brats.case_of("alone") == "alone"
    case = "BraTS-GLI-00001-000"
    assert brats.case_of(f"Training/{case}/{case}-t1n") == brats.case_of(f"{case}/{case}-t2f") == case
    assert lits.case_of("LITS/test/CT/volume007") == "test_volume7" and lits.case_of("x/volume7") == "x/volume7"
    assert lits.split_of("LITS/test/CT") == "test" and lits.split_of("train/CT") == "train"
    assert luna.split_of("subset7") == "valid" and CROP_SETS["folder"].split_of("subset7") == "train"
