"""X-rays in any folders below one, with tables as people write them: nothing is joined that does not belong."""

import shutil

import numpy as np
import pytest
from PIL import Image

from data.catalog.folder_xrays import index_folder
from data.catalog.list_folders import ListFolders
from data.catalog.name_matching import NameMatcher
from data.catalog.xray_dataset import Selection
from data.datasets.classification import open_classification
from data.datasets.pretraining import open_dataset
from data.readers.images import ImageSpec
from tests.dicom_files import dicom_bytes, ramp, window
from utils.errors import UserError

NAMES = [f"p{patient}/{view}.png" for patient in range(12) for view in ("front", "side")]


def write_images(root, names):
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 8 + i % 3), i, np.uint8)).save(root / name)


@pytest.fixture
def root(tmp_path):
    write_images(tmp_path / "own", NAMES)
    return tmp_path / "own"


def write_table(root, rows, columns="file,finding", name="labels.csv"):
    (root / name).write_text("".join(f"{row}\n" for row in [columns, *rows]))


def write_list(root, split, names):
    (root.parent / "lists").mkdir(exist_ok=True)
    (root.parent / "lists" / f"folder_{split}.txt").write_text("".join(f"{name}\n" for name in names))


def opened(root, **kwargs):
    settings = {"ratio": 0, "seed": 1, "size": 32} | kwargs
    return open_classification(name="folder", root=root, lists=ListFolders.at(root.parent / "lists"), **settings)


def pretraining(root, **kwargs):
    settings = {"ratio": 1.0, "seed": 1} | kwargs
    return open_dataset(name="folder", root=root, lists=ListFolders.at(root.parent / "lists"), **settings)


def names_of(split):
    return [split.name(i) for i in range(len(split))]


def labels_of(splits):
    return {name: row for split in splits[:3]
            for name, row in zip(names_of(split), split.labels.tolist(), strict=True)}  # fmt: skip


def test_images_of_any_depth_pre_train_and_what_is_no_image_is_named(root, capsys):
    write_images(root, ["deep/er/than/that.jpeg", "top.JPG", "masks/top.png", "with a blank/50%.png"])
    (root / "notes.txt").write_text("mine")
    write_images(root, ["out/restorations.png", "out/pictures/1.png"])
    (root / "out" / "run.json").write_text("{}")
    expected = sorted([*NAMES, "deep/er/than/that.jpeg", "top.JPG", "with a blank/50%.png"])
    dataset = pretraining(root)
    assert sorted(names_of(dataset)) == expected
    error = capsys.readouterr().err
    assert "27 of 28 files are images, 1 are not: left out (notes.txt)\n" in error
    assert "no images are taken from masks, out:" in error
    listed = (root.parent / "lists" / "folder_train.txt").read_text().splitlines()
    assert "with%20a%20blank/50%25.png" in listed and len(listed) == len(expected)
    # The list is read again as it was written, and its order is that of the samples.
    assert names_of(pretraining(root)) == names_of(dataset) != expected
    assert dataset[names_of(dataset).index(NAMES[5])][0].unique().tolist() == [5]
    assert len(pretraining(root, ratio=0.5)) == 13
    with pytest.raises(UserError, match=r"expected images \(.png, .* found none"):
        index_folder(root.parent / "lists")


def test_blank_labels_are_unknown_and_images_without_any_are_left_out(root, capsys):
    rows = [f"{name},{i % 2},{'' if i % 3 else i % 2}.0,".replace(",.0", ",") for i, name in enumerate(NAMES[:20])]
    write_table(root, [*rows, f"{NAMES[20]},,,", f"{NAMES[21]},,,", "gone.png,1,1,"], "File,a,b,remark")
    splits = opened(root)
    assert splits.classes == ("a", "b")
    found = labels_of(splits)
    assert set(found) == set(NAMES[:20])
    for i, name in enumerate(NAMES[:20]):
        np.testing.assert_equal(found[name], [i % 2, np.nan if i % 3 else i % 2])
    error = capsys.readouterr().err
    assert "labels.csv: 22 of 24 images of --data with a row, 2 without (p11/front.png, p11/side.png)" in error
    assert "22 of 23 names of its rows with an image, 1 without (gone.png)\n" in error
    assert "20 of 22 images with a label, 2 with blanks only (p10/front.png, p10/side.png)\n" in error
    assert "2 columns are labels (a, b); not those without 0 and 1: remark\n" in error
    assert "10 patients: 10 by their folder (20 images)" in error
    assert splits.test_source == "a fifth of the patients, held out" and len(splits.test) == 4
    patients = [{name.split("/")[0] for name in names_of(split)} for split in splits[:3]]
    assert not any(a & b for a, b in zip(patients, [*patients[1:], patients[0]], strict=True))


def test_columns_of_labels_may_be_named(root):
    write_table(root, [f"{name},{i},{i % 2},{'' if i % 3 else i % 2}" for i, name in enumerate(NAMES)], "file,age,A,b")
    with pytest.raises(UserError, match=r"in the column age, 22 of 24 rows have other values \(2, 3.*--labels COLUMN"):
        opened(root)
    splits = opened(root, columns=["a"])
    assert splits.classes == ("A",) and labels_of(splits) == {name: [i % 2] for i, name in enumerate(NAMES)}
    assert opened(root, columns=["b", "a"]).classes == ("b", "A")
    with pytest.raises(UserError, match=r"expected the columns a,c of --labels, there is no c"):
        opened(root, columns=["a", "c"])
    with pytest.raises(UserError, match="in the column age, 22 of 24 .* write unknown labels as blanks"):
        opened(root, columns=["age"])


def test_folders_of_many_images_may_be_no_patients(tmp_path, capsys):
    root = tmp_path / "own"
    write_images(root, [f"{folder}/{i}.png" for folder in ("normal", "ill", "other") for i in range(21)])
    write_table(root, [f"{folder}/{i}.png,{i % 2}" for folder in ("normal", "ill", "other") for i in range(21)])
    opened(root)
    assert "3 by their folder (63 images), which are many for a patient: if folders are none" in capsys.readouterr().err


def test_lists_decide_the_splits_by_the_names_that_people_write(root, capsys):
    write_table(root, [f"{name},{i % 2}" for i, name in enumerate(NAMES)])
    write_list(root, "train", NAMES[:16])
    write_list(root, "valid", [name.replace(".png", "") for name in NAMES[14:18]])
    write_list(root, "test", [name.upper() for name in NAMES[17:20]])
    splits = opened(root)
    assert names_of(splits.train) == NAMES[:14] and names_of(splits.test) == NAMES[17:20]
    # The patient of 16 and 17 is in the test list, that of 14 and 15 in the validation list.
    assert names_of(splits.valid) == NAMES[14:16] and splits.test_source == "folder_test.txt"
    error = capsys.readouterr().err
    assert "names with another ending (p7/front is p7/front.png)" in error
    assert "names in other case (P8/SIDE.PNG is p8/side.png)" in error
    assert "validation list: 2 of 4 names of other patients, 2 of the test list's patients: left out" in error


def test_a_test_list_in_the_folder_is_held_out_of_pre_training(root):
    (root / "test.txt").write_text("\n".join(NAMES[:4]))
    write_table(root, [f"{name},{i % 2}" for i, name in enumerate(NAMES)])
    assert set(names_of(pretraining(root))) == set(NAMES[4:])
    splits = opened(root)
    assert set(names_of(splits.test)) == set(NAMES[:4]) and splits.test_source == "folder_test.txt"
    # Also where it came after the training list.
    (root.parent / "lists" / "folder_test.txt").unlink()
    (root / "test.txt").write_text("\n".join(NAMES[4:6]))
    splits = opened(root)
    assert names_of(splits.test) == NAMES[4:6] and splits.test_source == "test.txt"
    assert not {*NAMES[4:6]} & {*names_of(splits.train), *names_of(splits.valid)}
    (root / "test.txt").write_text("other.png\nnames.png\n")
    shutil.rmtree(root.parent / "lists")
    with pytest.raises(UserError, match=r"test.txt: none of its 2 names is an image \(other.png, names.png\)"):
        pretraining(root)


def test_patients_are_those_of_a_table_then_of_folders_then_each_image(root, capsys):
    write_images(root, ["alone.png"])
    write_table(root, [f"{name},{i % 2}" for i, name in enumerate([*NAMES, "alone.png"])])
    write_table(root, [f"{name},x{i // 4}" for i, name in enumerate(NAMES[:16])], "name,patient", "patients.csv")
    patients = {n: p for split in opened(root)[:3] for n, p in zip(names_of(split), split.patients, strict=True)}
    assert [patients[name] for name in NAMES[:16]] == [f"x{i // 4}" for i in range(16)]
    assert len({patients[name] for name in NAMES[16:]}) == 4 and len(set(patients.values())) == 9
    error = capsys.readouterr().err
    assert "9 patients: 4 by a table (16 images), 4 by their folder (8 images), 1 by each image by itself (1" in error
    # Two tables that disagree.
    write_table(root, [f"{name},{i % 2},y" for i, name in enumerate(NAMES)], "file,finding,patient")
    with pytest.raises(UserError, match="16 names are listed twice with different patients"):
        opened(root)


def test_a_folder_that_holds_all_images_is_no_patient(tmp_path, capsys):
    root = tmp_path / "own"
    write_images(root, [f"images/batch/{i}.png" for i in range(20)])
    write_table(root, [f"{i}.png,{i % 2}" for i in range(20)])
    splits = opened(root)
    assert len({*splits.train.patients, *splits.valid.patients, *splits.test.patients}) == 20
    assert "20 names with other folders (0.png is images/batch/0.png)" in capsys.readouterr().err


def write_dicom(path, *, view="PA", patient="P7", **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    extra = [(0x00185101, "CS", view), (0x00100020, "LO", patient), *window(64, 128)]
    path.write_bytes(dicom_bytes(ramp(9, 8, np.uint8, 1), extra=extra, **kwargs))


def test_every_kind_of_image_is_one_of_a_folder(tmp_path, capsys):
    root = tmp_path / "own"
    write_images(root, ["a.png", "sub/b.jpeg", "sub/c.tif"])
    for name in ("d.dcm", "sub/IM000001", "1.2.840.113", "DICOMDIR"):
        write_dicom(root / name)
    (root / "README").write_text("words")
    dataset = pretraining(root, spec=ImageSpec(invert=True))
    assert sorted(names_of(dataset)) == ["1.2.840.113", "a.png", "d.dcm", "sub/IM000001", "sub/b.jpeg", "sub/c.tif"]
    assert "6 of 8 files are images, 2 are not: left out (DICOMDIR, README)\n" in capsys.readouterr().err
    shapes = {name: dataset[i][0].shape for i, name in enumerate(names_of(dataset))}
    assert shapes["sub/IM000001"] == (1, 9, 8) and all(len(shape) == 3 for shape in shapes.values())
    pixels = dataset[names_of(dataset).index("1.2.840.113")][0]
    assert np.array_equal(pixels[0], 255 - np.rint(ramp(9, 8, int, 1) / 127 * 255))
    assert pixels.min() == 255 - round(71 / 127 * 255)


def test_patients_and_views_of_dicom_and_tables(tmp_path, capsys):
    root = tmp_path / "own"
    views = ["PA", "AP", "LL", ""]
    for i in range(40):
        write_dicom(root / f"{i % 3}" / f"{i}", view=views[i % 4], patient=f"P{i // 4}")
    write_images(root, ["no dicom/x.png"])
    # The table's view counts before the file's.
    (root / "patients.csv").write_text("file,view,patient\n1/4,lateral,\n2/2,pa,me\nno dicom/x.png,,\n")
    (root / "labels.csv").write_text("file,a\n" + "".join(f"{i % 3}/{i},{i % 2}\n" for i in range(40)))
    splits = opened(root)
    patients = {n: p for split in splits[:3] for n, p in zip(names_of(split), split.patients, strict=True)}
    assert len(patients) == 40 and patients["2/2"] == "me" and len(set(patients.values())) == 11
    assert all(patients[f"{i % 3}/{i}"] == patients[f"{(i + 1) % 3}/{i + 1}"] for i in range(4, 40, 4))
    assert "11 patients: " in (error := capsys.readouterr().err)
    assert "1 by a table (1 images)" in error and "10 by DICOM's Patient ID (39 images)" in error
    chosen = Selection(views=["pa", "Ap"])
    expected = {f"{i % 3}/{i}" for i in range(40) if i % 4 < 2 and i != 4} | {"2/2"}
    assert set(names_of(pretraining(root, selection=chosen))) == expected
    assert "--views pa,Ap: 20 of 41 images of these views, 21 not: left out (" in capsys.readouterr().err
    assert set(labels_of(opened(root, selection=chosen))) == expected
    with pytest.raises(UserError, match=r"--views: expected images of RAO in .* are 1\d of unknown view, "):
        pretraining(root, selection=Selection(views=["RAO"]))


def test_skipped_names_are_used_nowhere_and_the_rest_is_cut_as_without(root, capsys):
    (root.parent / "skip.txt").write_text(f"{NAMES[3]}\nP4/FRONT\ngone.png\n")
    write_table(root, [f"{name},{i % 2}" for i, name in enumerate(NAMES)])
    chosen = Selection(skip=root.parent / "skip.txt")
    before = names_of(pretraining(root, ratio=0.5)), set(labels_of(opened(root, ratio=0.5)))
    capsys.readouterr()
    after = names_of(pretraining(root, ratio=0.5, selection=chosen)), opened(root, ratio=0.5, selection=chosen)
    assert after[0] == [name for name in before[0] if name not in (NAMES[3], NAMES[8])]
    assert set(labels_of(after[1])) == before[1] - {NAMES[3], NAMES[8]}
    assert len(before[0]) + len(before[1]) == 24 and len(after[0]) + len(labels_of(after[1])) == 22
    error = capsys.readouterr().err
    assert "skip.txt: 2 of 3 names in --data: left out, 1 not (gone.png)\n" in error
    (root.parent / "skip.txt").write_text("\n".join(NAMES))
    with pytest.raises(UserError, match="all 24 images are left out"):
        pretraining(root, selection=chosen)


@pytest.mark.parametrize(("content", "message"), [
    ("image,finding\np0/front.png,1\n", r"labels.csv: expected a column file or name, got image,finding"),
    ("file,a,A\np0/front.png,1,0\n", "expected each column once, got a and A"),
    ("file,a\np0/front.png,1\np0/front.png,0\n", r"1 names are listed twice with different labels \(p0/front.png"),
    ("file,a\np0/front.png,1\np0/side.png,2\n", r"blank \(unlabelled\) in the column a, 1 of 2 rows have .* \(2\)"),
    ("file,a\nx.png,1\n", r"none of its 1 is one \(x.png; of --data: p0/front.png"),
    ("file,text\np0/front.png,PNEUMONIA\n", "expected a column of 0, 1 or blank for each label, found none"),
    ("file,a\n,1\n", "expected file in every row, row 1 lacks one"),
    ("file,a\n", "none of its 0 is one"),
    ("", "expected a column file or name, got none"),
])  # fmt: skip
def test_a_wrong_table_is_one_line(root, content, message):
    (root / "labels.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        opened(root)


def test_no_table_is_one_line(root):
    with pytest.raises(UserError, match=r"expected labels in .*labels.csv, with columns file and"):
        opened(root)


def test_a_table_of_another_spreadsheet(root):
    rows = ["FILE ; Finding;label", *(f" {name.replace('/', chr(92))};{i % 2};{'AB'[i % 2]}"
                                      for i, name in enumerate(NAMES))]  # fmt: skip
    (root / "labels.csv").write_bytes("\r\n".join(rows).encode("utf-8-sig"))
    splits = opened(root)
    assert splits.classes == ("Finding",)
    assert labels_of(splits) == {name: [i % 2] for i, name in enumerate(NAMES)}


def test_names_are_matched_only_where_one_file_fits():
    matcher = NameMatcher(["a/1.png", "b/1.png", "b/2.dcm", "c/2.PNG", "3.jpeg", "1.2.840.5", "d/e/4.png"])
    for name, expected in {
        "a/1.png": "a/1.png", "1.png": None, "./a/1.png": "a/1.png", "/home/me/own/b/1.png": "b/1.png",
        "x/1.png": None, "2.dcm": "b/2.dcm", "2": None, "c/2": "c/2.PNG", "C\\2.png": "c/2.PNG", "3": "3.jpeg",
        "3.JPG": "3.jpeg", "x/3.jpg": "3.jpeg", "1.2.840.7": None, "1.2.840": None, "e/4.png": "d/e/4.png",
        "d/4.png": None, "": None, "d": "d/e/4.png", "D/e/": "d/e/4.png", "x/e": None, "a": "a/1.png", "b": None,
    }.items():  # fmt: skip
        assert matcher.find(name)[0] == expected, name
