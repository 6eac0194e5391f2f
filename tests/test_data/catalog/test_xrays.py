"""The registry of 2D data sets, and what docs/design.md shows to add one."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.catalog.chest import FINDINGS
from data.catalog.labels import CHEXPERT_FINDINGS
from data.catalog.list_folders import ListFolders
from data.catalog.xrays import XRAYS
from data.datasets.classification import open_classification
from data.datasets.pretraining import open_dataset
from utils import options
from utils.errors import UserError

ROOT = Path(__file__).parents[3]


def test_options_and_registry_name_the_same_data_sets():
    assert tuple(XRAYS) == options.XRAYS


def test_classes_are_names_of_their_own():
    for classes in (FINDINGS, CHEXPERT_FINDINGS):
        assert len(set(classes)) == len(classes) > 0


@pytest.fixture
def padchest(monkeypatch):
    """The data set that docs/design.md shows, in the registry."""
    module = {}
    exec(re.search(r'^```text\n(""".*?)^```', (ROOT / "docs/design.md").read_text(), re.M | re.S)[1], module)
    monkeypatch.setitem(XRAYS, "padchest", module["PADCHEST"])
    return module


def write_padchest(root, labels):
    (root / "images").mkdir(parents=True)
    rows = [[f"{i}.png", f"p{i // 2}", text] for i, text in enumerate(labels)]
    for name, *_ in rows:
        Image.fromarray(np.full((9, 12), 7, np.uint8)).save(root / "images" / name)
    with open(root / "PADCHEST.csv", "w", newline="") as file:
        csv.writer(file).writerows([["ImageID", "PatientID", "Labels"], *rows])


def opening(tmp_path):
    lists = ListFolders.at(tmp_path / "lists")
    return {"name": "padchest", "root": tmp_path / "data", "lists": lists, "ratio": 0.25, "seed": 1}


def test_the_data_set_that_the_page_shows(tmp_path, padchest):
    write_padchest(tmp_path / "data", ["['nodule', ' cardiomegaly']", "['normal']", "['pneumonia']"] * 4)
    assert len(open_dataset(**opening(tmp_path))) == 3
    splits = open_classification(**opening(tmp_path), size=32)
    samples = [(split.name(i), split.patients[i], split.labels[i].tolist())
               for split in splits[:3] for i in range(len(split))]  # fmt: skip
    assert len(samples) == 9 and len({patient for _, patient, _ in samples}) > 3
    for name, patient, labels in samples:
        number = int(name.removesuffix(".png"))
        assert patient == f"p{number // 2}"
        assert labels == [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]][number % 3]


@pytest.mark.parametrize("text", ["nodule", "3", "[1]", "[["])
def test_the_page_refuses_labels_that_are_no_list(tmp_path, padchest, text):
    write_padchest(tmp_path / "data", ["['nodule']"] * 11 + [text])
    with pytest.raises(UserError, match=r"expected a list of labels such as .*, got"):
        open_classification(**opening(tmp_path), size=32)


def test_the_page_holds_out_a_test_list_that_is_given(tmp_path, padchest):
    write_padchest(tmp_path / "data", ["['nodule']"] * 12)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "padchest_test.txt").write_text("0.png\n1.png\n")
    splits = open_classification(**opening(tmp_path), size=32)
    assert sorted(splits.test.name(i) for i in range(2)) == ["0.png", "1.png"]
    assert len((tmp_path / "lists" / "padchest_train.txt").read_text().split()) == 10
