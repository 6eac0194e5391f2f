"""Lists, folders and tables of labelled X-rays: no label, patient or split is invented."""

import numpy as np
import pytest
from PIL import Image

from data.catalog.labels import CHEXPERT_FINDINGS, read_chexpert_labels
from data.catalog.list_folders import ListFolders
from data.catalog.xray_dataset import Selection
from data.datasets.classification import open_classification
from utils.errors import UserError

NONE, MASS = " 0" * 14, " 0" * 4 + " 1" + " 0" * 9
NAMES = [f"{patient:08}_{visit:03}.png" for patient in range(12) for visit in range(2)]


def write_images(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(folder / name)


@pytest.fixture
def root(tmp_path):
    write_images(tmp_path / "nih" / "images", NAMES)
    return tmp_path / "nih"


def write_list(tmp_path, lines, split="train"):
    (tmp_path / "lists").mkdir(exist_ok=True)
    (tmp_path / "lists" / f"chest_{split}.txt").write_text("".join(f"{line}\n" for line in lines))


def write_table(root, rows, columns="Image Index,Finding Labels,Patient ID"):
    (root / "Data_Entry_2017.csv").write_text("".join(f"{row}\n" for row in [columns, *rows]))


def opened(tmp_path, root, name="chest", **kwargs):
    settings = {"ratio": 0, "seed": 1, "size": 32} | kwargs
    return open_classification(name=name, root=root, lists=ListFolders.at(tmp_path / "lists"), **settings)


def names_of(split):
    return [split.name(i) for i in range(len(split))]


def all_names(splits):
    return sorted(name for split in splits[:3] for name in names_of(split))


def test_listed_images_that_are_missing_are_left_out_up_to_a_share(tmp_path, root):
    write_list(tmp_path, [name + MASS for name in [*NAMES[:12], "gone.png", *NAMES[12:]]])
    with pytest.raises(UserError, match=r"chest_train.txt: 1 of its 25 names .*gone.png.*--max_bad 0.04$"):
        opened(tmp_path, root)
    splits = opened(tmp_path, root, max_bad=0.04)
    assert all_names(splits) == NAMES
    write_list(tmp_path, [name + MASS for name in NAMES])
    assert [s.fingerprint for s in opened(tmp_path, root)[:3]] == [s.fingerprint for s in splits[:3]]


def test_a_test_list_is_joined_as_the_training_list(tmp_path, root, capsys):
    write_list(tmp_path, [name + MASS for name in NAMES[1:]])
    write_list(tmp_path, [name + NONE for name in (NAMES[0], "x.png")], split="test")
    with pytest.raises(UserError, match=r"chest_test.txt: 1 of its 2 names are not in .*x.png"):
        opened(tmp_path, root)
    splits = opened(tmp_path, root, max_bad=0.5)
    assert splits.test_source == "chest_test.txt" and names_of(splits.test) == NAMES[:1]
    # The patient's other image trains nowhere.
    assert all_names(splits) == sorted([NAMES[0], *NAMES[2:]])
    error = capsys.readouterr().err
    assert "chest_test.txt: 1 of 2 names in --data, 1 not (x.png)\n" in error
    assert f"test list: 22 of 23 names of other patients, 1 of its patients: left out ({NAMES[1]})\n" in error
    write_list(tmp_path, ["x.png" + NONE, "y.png" + NONE], split="test")
    with pytest.raises(UserError, match=r"chest_test.txt: 2 of its 2 names are not in"):
        opened(tmp_path, root, max_bad=1)


def test_a_validation_list_is_joined_as_the_training_list(tmp_path, root, capsys):
    write_list(tmp_path, [name + MASS for name in NAMES[2:]])
    write_list(tmp_path, [name + NONE for name in (NAMES[0], NAMES[2])], split="valid")
    write_list(tmp_path, [name + NONE for name in (NAMES[3], NAMES[5])], split="test")
    with pytest.raises(UserError, match=f"names are listed twice with different labels .{NAMES[2]}, {NAMES[3]}"):
        opened(tmp_path, root)
    write_list(tmp_path, [name + MASS for name in (NAMES[0], NAMES[2], "x.png")], split="valid")
    write_list(tmp_path, [NAMES[3] + MASS], split="test")
    with pytest.raises(UserError, match=r"chest_valid.txt: 1 of its 3 names are not in .*x.png"):
        opened(tmp_path, root)
    splits = opened(tmp_path, root, max_bad=0.5)
    # The patient of NAMES[2] is that of the test list, and the list's other patient trains nowhere.
    assert [names_of(split) for split in splits[:3]] == [NAMES[4:], NAMES[:1], [NAMES[3]]]
    assert "chest_valid.txt: 2 of 3 names in --data, 1 not (x.png)\n" in capsys.readouterr().err


def test_names_to_skip_are_those_of_each_data_set(tmp_path, root, capsys):
    write_list(tmp_path, [name + MASS for name in NAMES])
    (tmp_path / "skip.txt").write_text(f"{NAMES[3]}\nx.png\n{NAMES[8]}\n")
    splits = opened(tmp_path, root, selection=Selection(skip=tmp_path / "skip.txt"))
    assert all_names(splits) == [name for name in NAMES if name not in (NAMES[3], NAMES[8])]
    assert "skip.txt: 2 of 3 names in --data: left out, 1 not (x.png)\n" in capsys.readouterr().err
    names = [f"train/patient{i:05}/study1/view1_frontal.jpg" for i in range(12)]
    write_images(tmp_path / "chex", names)
    write_chexpert(tmp_path / "chex", map(chexpert_row, names))
    (tmp_path / "skip.txt").write_text(f"CheXpert-v1.0-small/{names[5]}\n")
    splits = opened(tmp_path, tmp_path / "chex", "chexpert", selection=Selection(skip=tmp_path / "skip.txt"))
    assert all_names(splits) == [*names[:5], *names[6:]]


@pytest.mark.parametrize("twice", [("train", "train"), ("train", "test")])
def test_an_image_with_two_different_labels_is_refused(tmp_path, root, twice, capsys):
    lines = {"train": [name + MASS for name in NAMES[2:]], "test": [NAMES[0] + MASS, NAMES[1] + NONE]}
    for label, split in zip((MASS, NONE), twice, strict=True):
        lines[split].append(NAMES[2] + label)
    for split in lines:
        write_list(tmp_path, lines[split], split)
    with pytest.raises(
        UserError, match=f"lists/chest_train.txt.*1 names are listed twice with different labels .{NAMES[2]}"
    ):
        opened(tmp_path, root)
    # The same twice is dropped, and counted.
    write_list(tmp_path, [*lines["train"][: len(NAMES) - 2], NAMES[2] + MASS])
    write_list(tmp_path, lines["test"][:2], "test")
    capsys.readouterr()
    opened(tmp_path, root)
    assert capsys.readouterr().err.count("chest_train.txt: 1 repeated names are dropped") == 1


def test_a_list_of_names_alone_takes_its_labels_from_the_table(tmp_path, root, capsys):
    write_list(tmp_path, NAMES)
    with pytest.raises(UserError, match=r"chest_train.txt: expected a name and 14 labels .* got names alone"):
        opened(tmp_path, root)
    write_table(root, [f"{name},{'Mass' if i % 2 else 'No Finding'},{i // 2}" for i, name in enumerate(NAMES[:20])])
    splits = opened(tmp_path, root)
    assert all_names(splits) == NAMES[:20]
    for split in splits[:3]:
        for i in range(len(split)):
            assert np.flatnonzero(split.labels[i]).tolist() == ([4] if split.name(i).endswith("1.png") else [])
    assert f"20 of 24 images with labels, 4 without: left out ({', '.join(NAMES[20:])})" in capsys.readouterr().err
    write_table(root, ["x.png,Mass,1"])
    with pytest.raises(UserError, match="24 of 24 images have no labels"):
        opened(tmp_path, root)


def test_patients_are_those_of_the_table(tmp_path, root):
    write_table(root, [f"{name},Mass,{i // 4}" for i, name in enumerate(NAMES)])
    splits = opened(tmp_path, root)
    assert all_names(splits) == NAMES
    for split in splits[:3]:
        assert split.patients == [str(NAMES.index(name) // 4) for name in names_of(split)]
    assert not set(splits.train.patients) & set(splits.test.patients)
    assert not set(splits.train.patients) & set(splits.valid.patients)


def chexpert_row(name, value="1.0"):
    return f"CheXpert-v1.0-small/{name},{','.join([value, *['0.0'] * 13])}"


def write_chexpert(root, rows):
    (root / "train.csv").write_text("".join(f"{line}\n" for line in [",".join(["Path", *CHEXPERT_FINDINGS]), *rows]))


def test_chexperts_images_without_a_row_get_no_label(tmp_path, capsys):
    names = [f"train/patient{i:05}/study1/view1_frontal.jpg" for i in range(12)]
    write_images(tmp_path / "chex", names)
    write_chexpert(tmp_path / "chex", map(chexpert_row, names[:9]))
    assert all_names(opened(tmp_path, tmp_path / "chex", "chexpert")) == names[:9]
    error = capsys.readouterr().err
    assert f"9 of 12 images of train/ with a row, 3 without: in no list ({', '.join(names[9:])})" in error
    (tmp_path / "lists" / "chexpert_train.txt").write_text("".join(f"{name}\n" for name in names))
    assert all_names(opened(tmp_path, tmp_path / "chex", "chexpert")) == names[:9]
    assert "chexpert_train.txt: 9 of 12 images with labels, 3 without: left out" in capsys.readouterr().err
    write_chexpert(tmp_path / "chex", [chexpert_row("train/x.jpg")])
    with pytest.raises(UserError, match="chexpert_train.txt: 12 of 12 images have no labels"):
        opened(tmp_path, tmp_path / "chex", "chexpert")


def test_a_row_of_chexpert_that_contradicts_another_is_refused(tmp_path):
    (tmp_path / "train").mkdir()
    write_chexpert(tmp_path, [chexpert_row("train/a.jpg", value) for value in ("-1.0", "-1.0")])
    assert len(read_chexpert_labels(tmp_path, uncertain="ignore")) == 1
    write_chexpert(tmp_path, [chexpert_row("train/a.jpg", value) for value in ("1.0", "0.0")])
    with pytest.raises(UserError, match="train.csv: 1 names are listed twice with different labels .train/a.jpg."):
        read_chexpert_labels(tmp_path, uncertain="ignore")
