"""NIH ChestX-ray14 and CheXpert in the folders that people have, and the lists made from their metadata."""

import csv
import os

import pytest

from data.catalog.chest import FINDINGS, index_chest, make_chest_lists, read_findings
from data.catalog.chexpert import chexpert_folder, index_chexpert, make_chexpert_list, strip_root_folder
from data.catalog.file_index import FileIndex
from data.catalog.lists import read_names, write_list_once
from data.catalog.names import NameList
from utils.errors import UserError

TABLE = "Data_Entry_2017_v2020.csv"
CHEXPERT = "CheXpert-v1.0-small"
STUDY = "train/patient00001/study1"


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def write_table(path, rows, columns=("Image Index", "Finding Labels", "Follow-up #"), encoding="utf-8"):
    with open(path, "w", newline="", encoding=encoding) as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def write_list(path, names):
    path.write_text("".join(name + "\n" for name in names))


def lines_of(folder, name, part):
    return (folder / f"{name}_{part}.txt").read_text().splitlines()


def patients_of(lines):
    return {line.partition("_")[0] for line in lines}


def many_images(root):
    """600 images of 200 patients, without any file."""
    names = [f"{patient:08}_{visit:03}.png" for patient in range(200) for visit in range(3)]
    return FileIndex([root], [NameList.of(names)]), names


LAYOUTS = [["."], ["images"], ["images_001/images", "images_002/images"], ["images_012/images"]]


@pytest.mark.parametrize("folders", LAYOUTS)
def test_nih_images_are_found_in_every_layout(tmp_path, folders):
    where = {f"0000000{i}_000.{ending}": folders[i % len(folders)] for i, ending in enumerate(["png", "PNG", "jpeg"])}
    touch(tmp_path, TABLE, *(f"{folder}/{name}" for name, folder in where.items()))
    if folders != ["."]:
        (tmp_path / "images_003" / "images").mkdir(parents=True)
    index = index_chest(tmp_path)
    found = index.locate(NameList.of(where), source="x")
    assert {name: index.folders[i] for name, i in zip(where, found, strict=True)} == {
        name: tmp_path / folder for name, folder in where.items()
    }


def test_the_images_folder_itself_may_be_given(tmp_path):
    touch(tmp_path, "images/a.png")
    assert list(index_chest(tmp_path / "images").names) == ["a.png"]


def test_nih_without_images_is_one_line(tmp_path):
    with pytest.raises(UserError, match="--data: expected a folder, there is none at"):
        index_chest(tmp_path / "none")
    with pytest.raises(UserError, match="is empty"):
        index_chest(tmp_path)
    touch(tmp_path, TABLE, "images/readme.txt")
    with pytest.raises(
        UserError, match=f"--data: expected PNG or JPEG images in {tmp_path} or its images/, found none"
    ):
        index_chest(tmp_path)


@pytest.mark.parametrize("folder", [".", "images"])
def test_missing_images_are_said_to_be_missing_from_the_given_folder(tmp_path, folder):
    root = touch(tmp_path / "nih", f"{folder}/a.png")
    with pytest.raises(UserError, match=f"1 of its 2 names are not in {root}[ /]"):
        index_chest(root).locate(NameList.of(["a.png", "b.png"]), source="x")


def test_without_a_table_all_images_pretrain_in_a_seeded_order(tmp_path, capsys):
    names = [f"{i:08}_000.png" for i in range(20)]
    for order, lists in ((names, "a"), (names[::-1], "b")):
        make_chest_lists(tmp_path, tmp_path / lists, FileIndex([tmp_path], [NameList.of(order)]), seed=3)
    lines = lines_of(tmp_path / "a", "chest", "train")
    assert sorted(lines) == names and lines != names and lines == lines_of(tmp_path / "b", "chest", "train")
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["chest_train.txt"]
    assert f"made {tmp_path}/a/chest_train.txt from the images of {tmp_path}: 20 names" in capsys.readouterr().err
    make_chest_lists(tmp_path, tmp_path / "c", FileIndex([tmp_path], [NameList.of(names)]), seed=4)
    assert lines_of(tmp_path / "c", "chest", "train") != lines


def test_labels_follow_each_name_in_the_published_order(tmp_path):
    rows = [("00000001_000.png", "Cardiomegaly|Hernia", 0), ("00000001_001.png", "No Finding", 1)]
    write_table(tmp_path / TABLE, [*rows, ("00000009_000.png", "Mass", 0)])
    names = ["00000001_000.png", "00000001_001.png", "00000002_000.png"]
    make_chest_lists(tmp_path, tmp_path, FileIndex([tmp_path], [NameList.of(names)]), seed=3)
    made = sorted(line for part in ("train", "valid", "test") for line in lines_of(tmp_path, "chest", part))
    assert made == [
        "00000001_000.png 0 1 0 0 0 0 0 0 0 0 0 0 0 1",
        "00000001_001.png 0 0 0 0 0 0 0 0 0 0 0 0 0 0",
        "00000002_000.png 0 0 0 0 0 0 0 0 0 0 0 0 0 0",
    ]


def test_whole_patients_are_held_out_in_the_published_shares(tmp_path):
    index, names = many_images(tmp_path)
    write_table(tmp_path / TABLE, [(name, "Edema", 0) for name in names])
    make_chest_lists(tmp_path, tmp_path, index, seed=3)
    parts = {part: lines_of(tmp_path, "chest", part) for part in ("train", "valid", "test")}
    assert sorted(line.split()[0] for lines in parts.values() for line in lines) == names
    patients = {part: patients_of(lines) for part, lines in parts.items()}
    assert sum(map(len, patients.values())) == 200
    # 200 patients: 140, 20 and 40 expected, standard deviations 6.5, 4.2 and 5.7.
    assert abs(len(patients["train"]) - 140) < 20
    assert abs(len(patients["valid"]) - 20) < 13 and abs(len(patients["test"]) - 40) < 17


@pytest.mark.parametrize("with_table", [True, False])
@pytest.mark.parametrize("inside", [True, False])
def test_the_official_test_list_is_held_out(tmp_path, with_table, inside):
    index, names = many_images(tmp_path)
    write_list(tmp_path / "test_list.txt", names[::7])
    if with_table:
        write_table(tmp_path / TABLE, [(name, "Edema", 0) for name in names])
    make_chest_lists(tmp_path / "images" if inside else tmp_path, tmp_path / "lists", index, seed=3)
    parts = ("train", "valid") if with_table else ("train",)
    kept = sorted(line.split()[0] for part in parts for line in lines_of(tmp_path / "lists", "chest", part))
    assert kept == sorted(set(names) - set(names[::7]))
    if with_table:
        assert sorted(line.split()[0] for line in lines_of(tmp_path / "lists", "chest", "test")) == names[::7]


def test_where_the_training_list_is_the_others_are(tmp_path, monkeypatch):
    """What fine-tunes asks for it alone: a test list that is not there yet would be taken for one that is not given."""
    index, names = many_images(tmp_path)
    write_table(tmp_path / TABLE, [(name, "Edema", 0) for name in names])
    parts = []

    def keep(path, lines, **more):
        parts.append(path.stem.partition("_")[2])
        write_list_once(path, lines, **more)

    monkeypatch.setattr("data.catalog.chest.write_list_once", keep)
    make_chest_lists(tmp_path, tmp_path, index, seed=3)
    assert sorted(parts) == ["test", "train", "valid"] and parts[-1] == "train"


def test_lists_that_are_there_are_left_as_they_are(tmp_path):
    index, names = many_images(tmp_path)
    write_table(tmp_path / TABLE, [(name, "Edema", 0) for name in names])
    write_list(tmp_path / "chest_test.txt", names[:2])
    make_chest_lists(tmp_path, tmp_path, index, seed=3)
    assert lines_of(tmp_path, "chest", "test") == names[:2]
    assert len(lines_of(tmp_path, "chest", "train")) > 300


@pytest.mark.parametrize("name", [b"00000007_000 (copy).png", b"\xe9tude.png"])
def test_a_name_that_no_list_can_hold_stops_nothing(tmp_path, name):
    touch(tmp_path, "images/00000001_000.png", "images/00000002_000.png")
    with open(os.path.join(os.fsencode(tmp_path), b"images", name), "wb"):  # noqa: PTH118
        pass
    make_chest_lists(tmp_path, tmp_path, index_chest(tmp_path), seed=3)
    made = read_names(tmp_path / "chest_train.txt")
    assert sorted(made) == ["00000001_000.png", "00000002_000.png"]


def test_findings_are_read_by_column_name(tmp_path):
    path = write_table(
        tmp_path / TABLE, [("No Finding", "x", "a.png"), ("Pneumonia|Atelectasis", "y", "b.png")],
        ("Finding Labels", "More", "Image Index"), encoding="utf-8-sig",
    )  # fmt: skip
    expected = [0] * 14
    expected[FINDINGS.index("Pneumonia")] = expected[0] = 1
    assert read_findings(path) == {"a.png": (0,) * 14, "b.png": tuple(expected)}
    assert len(FINDINGS) == 14


def test_a_table_without_its_columns_is_named(tmp_path):
    for columns in (("Image Index", "Labels"), ("Image", "Finding Labels")):
        path = write_table(tmp_path / TABLE, [("a.png", "Mass")], columns)
        with pytest.raises(UserError, match=f"{TABLE}: expected the columns 'Image Index' and 'Finding Labels'"):
            read_findings(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="expected the columns"):
        read_findings(path)


@pytest.mark.parametrize("row", [b"00000002_0", b"00000002_000.png,caf\xe9,0\n"])
def test_a_table_cut_short_or_of_another_encoding_is_named(tmp_path, row):
    path = tmp_path / TABLE
    path.write_bytes(b"Image Index,Finding Labels,Follow-up #\n00000001_000.png,Mass,0\n" + row)
    with pytest.raises(UserError, match=TABLE) as caught:
        read_findings(path)
    assert "\n" not in str(caught.value)


CHEXPERT_NAMES = [
    f"{STUDY}/view1_frontal.jpg",
    f"{STUDY}/view2_lateral.jpg",
    "train/patient00002/study1/view1_frontal.jpg",
]


@pytest.fixture(params=["", CHEXPERT, "CheXpert-v1.0"])
def chexpert(request, tmp_path):
    """CheXpert's folder as given to --data, and the one with train/ in it."""
    top = tmp_path / "x" / request.param
    touch(top, *CHEXPERT_NAMES, "valid/patient00003/study1/view1_frontal.jpg", "train/readme.txt")
    return tmp_path / "x", top


def test_chexpert_is_found_nested_or_not(chexpert):
    root, top = chexpert
    assert chexpert_folder(root) == top
    index = index_chexpert(root)
    assert index.folders == [top]
    assert list(index.names) == [*CHEXPERT_NAMES, "valid/patient00003/study1/view1_frontal.jpg"]
    with pytest.raises(UserError, match=f"1 of its 1 names are not in {top} "):
        index.locate(NameList.of(["train/x.jpg"]), source="x")


def test_chexpert_without_train_is_one_line(tmp_path):
    touch(tmp_path, "valid/a.jpg")
    with pytest.raises(UserError, match=f"--data: expected CheXpert's train/ in {tmp_path}, or a folder CheXpert-v1.0"):
        index_chexpert(tmp_path)
    (tmp_path / "valid" / "a.jpg").unlink()
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match=f"--data: expected images below {tmp_path}/train, found none"):
        index_chexpert(tmp_path)
    with pytest.raises(UserError, match="there is none at"):
        index_chexpert(tmp_path / "none")


def test_chexperts_list_comes_from_its_table_frontal_and_lateral(chexpert, tmp_path):
    root, top = chexpert
    listed = [f"{CHEXPERT}/{name}" for name in CHEXPERT_NAMES[:2]]
    write_table(top / "train.csv", [(name, "Female", 60) for name in listed], ("Path", "Sex", "Age"))
    make_chexpert_list(root, tmp_path, index_chexpert(root), seed=3)
    assert sorted(lines_of(tmp_path, "chexpert", "train")) == listed


def test_chexperts_list_is_in_a_seeded_order(tmp_path):
    listed = [f"{CHEXPERT}/train/patient{i:05}/study1/view1_frontal.jpg" for i in range(30)]
    touch(tmp_path, CHEXPERT_NAMES[0])
    for seed, rows in ((1, listed), (2, listed[::-1]), (3, listed)):
        write_table(tmp_path / "train.csv", [(name,) for name in rows], ("Path",))
        make_chexpert_list(tmp_path, tmp_path / str(seed), index_chexpert(tmp_path), seed=2 - seed % 2)
    one, two, again = (lines_of(tmp_path / str(i), "chexpert", "train") for i in (1, 2, 3))
    assert one == again != two and sorted(one) == sorted(two) == listed


def test_chexpert_without_its_table_lists_the_images_of_train(chexpert, tmp_path, capsys):
    root, top = chexpert
    make_chexpert_list(root, tmp_path, index_chexpert(root), seed=3)
    assert sorted(lines_of(tmp_path, "chexpert", "train")) == CHEXPERT_NAMES
    assert f"no train.csv in {top}: the list is made from the images found" in capsys.readouterr().err


def test_a_chexpert_table_without_paths_is_named(tmp_path):
    touch(tmp_path, CHEXPERT_NAMES[0])
    for columns in (("File",), ("path",)):
        write_table(tmp_path / "train.csv", [("a",)], columns)
        with pytest.raises(UserError, match=f"{tmp_path}/train.csv: expected (a|the) column 'Path'"):
            make_chexpert_list(tmp_path, tmp_path, index_chexpert(tmp_path), seed=3)


def test_a_chexpert_table_of_another_encoding_is_named(tmp_path):
    touch(tmp_path, CHEXPERT_NAMES[0])
    (tmp_path / "train.csv").write_bytes(b"Path,Sex\ntrain/caf\xe9.jpg,Female\n")
    with pytest.raises(UserError, match=f"{tmp_path}/train.csv"):
        make_chexpert_list(tmp_path, tmp_path, index_chexpert(tmp_path), seed=3)


def test_only_chexperts_own_folder_is_taken_off_names():
    names = [f"{CHEXPERT}/train/a.jpg", "CheXpert-v1.0/valid/b.jpg", "train/c.jpg", "x/train/d.jpg"]
    assert list(strip_root_folder(NameList.of(names))) == ["train/a.jpg", "valid/b.jpg", "train/c.jpg", "x/train/d.jpg"]
