"""NIH ChestX-ray14 and CheXpert in the folders that people have, and the lists made from their metadata."""

import csv
import os

import pytest

from data.catalog.chest import FINDINGS, find_chest_table, index_chest, make_chest_lists, read_chest_table
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


def all_lines(folder):
    return sorted(line for split in ("train", "valid", "test") for line in lines_of(folder, "chest", split))


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
    found = index.join(NameList.of(where), source="x")
    assert {name: index.folders[i] for name, i in zip(where, found.folder_of, strict=True)} == {
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


def test_images_in_all_folders_are_taken_and_those_elsewhere_are_told(tmp_path, capsys):
    touch(
        tmp_path,
        "images/a.png",
        "images_001/images/b.png",
        "images_002/c.png",
        "preview.png",
        "sorted/d.png",
        "images/deep/e.png",
        "x/t",
        "masks/m.png",
    )
    (tmp_path / "images_003").symlink_to(tmp_path / "images_001")
    assert sorted(index_chest(tmp_path).names) == ["a.png", "b.png", "c.png"]
    (line,) = capsys.readouterr().err.splitlines()
    folders = ", ".join(str(tmp_path / name) for name in ("images", "images_001/images", "images_002"))
    assert line == (
        f"--data: images are read in {folders}, not in {tmp_path} itself with 1 images, {tmp_path}/images/deep, "
        f"{tmp_path}/sorted"
    )
    with pytest.raises(UserError, match="found none; there are some in .*/d$"):
        index_chest(touch(tmp_path / "other", "d/e.png"))


def test_a_name_in_two_folders_is_refused(tmp_path):
    touch(tmp_path, "images/a.png", "images_001/images/a.png", "images_001/images/b.png")
    with pytest.raises(UserError, match="--data: 1 names are in two folders, a.png in .*images and in .*images_001"):
        index_chest(tmp_path)


@pytest.mark.parametrize("folder", [".", "images"])
def test_missing_images_are_said_to_be_missing_from_the_given_folder(tmp_path, folder):
    root = touch(tmp_path / "nih", f"{folder}/a.png")
    with pytest.raises(UserError, match=f"1 of its 2 names are not in {root}[ /]"):
        index_chest(root).join(NameList.of(["a.png", "b.png"]), source="x").found(max_bad=0.01)


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
    names = ["00000001_000.png", "00000001_001.png"]
    make_chest_lists(tmp_path, tmp_path, FileIndex([tmp_path], [NameList.of(names)]), seed=3)
    assert all_lines(tmp_path) == [
        "00000001_000.png 0 1 0 0 0 0 0 0 0 0 0 0 0 1",
        "00000001_001.png 0 0 0 0 0 0 0 0 0 0 0 0 0 0",
    ]


def test_images_without_a_row_are_in_no_list_and_named(tmp_path, capsys):
    names = [f"{i:08}_000.png" for i in range(10)]
    write_table(tmp_path / TABLE, [*((name, "Mass", 0) for name in names[:4]), ("00000099_000.png", "Hernia", 0)])
    make_chest_lists(tmp_path, tmp_path / "a", FileIndex([tmp_path], [NameList.of(names)]), seed=3)
    assert [line.split()[0] for line in all_lines(tmp_path / "a")] == names[:4]
    assert (
        f"{tmp_path / TABLE}: 4 of 10 images of --data with a row, 6 without: in no list "
        f"({', '.join(names[4:9])}, ...); 4 of 5 rows with an image, 1 without (00000099_000.png)\n"
    ) in capsys.readouterr().err
    images = FileIndex([tmp_path], [NameList.of([name.replace(".png", ".jpg") for name in names])])
    with pytest.raises(UserError, match=f"{TABLE}: 10 of 10 images of --data have no row in it .00000000_000.jpg, "):
        make_chest_lists(tmp_path, tmp_path / "b", images, seed=3)
    assert not (tmp_path / "b").exists()


def test_patients_are_those_of_the_tables_column(tmp_path):
    names = [f"IMG{i:05}.png" for i in range(240)]
    patients = {name: f"p{i // 4}" for i, name in enumerate(names)}
    rows = [(name, "Mass", patients[name]) for name in names]
    write_table(tmp_path / TABLE, rows, ("Image Index", "Finding Labels", "Patient ID"))
    make_chest_lists(tmp_path, tmp_path, FileIndex([tmp_path], [NameList.of(names)]), seed=3)
    splits = [
        {patients[line.split()[0]] for line in lines_of(tmp_path, "chest", s)} for s in ("train", "valid", "test")
    ]
    assert sum(map(len, splits)) == len(set.union(*splits)) == 60 and min(map(len, splits)) > 0


@pytest.mark.parametrize(("rows", "message"), [
    ([("a.png", "Efusion|Mass"), ("b.png", "Mass"), ("c.png", "Efusion"), ("d.png", "No finding")],
     "3 of 4 rows have findings that are not known .'Efusion', 'No finding'.; expected No Finding or some of Atelec"),
    ([("a.png", "Mass"), ("b.png", "Mass"), ("a.png", "Hernia")],
     "1 names are listed twice with different findings .a.png."),
    ([("a.png", "Mass"), ("b.png", "")], "row 2"),
])  # fmt: skip
def test_rows_that_say_nothing_clear_are_refused(tmp_path, rows, message):
    path = write_table(tmp_path / TABLE, rows, ("Image Index", "Finding Labels"))
    with pytest.raises(UserError, match=f"{TABLE}: .*{message}") as caught:
        read_chest_table(path)
    assert "\n" not in str(caught.value)


def test_a_patient_that_differs_is_refused_and_a_row_twice_is_counted(tmp_path, capsys):
    columns = ("Image Index", "Finding Labels", "Patient ID")
    path = write_table(tmp_path / TABLE, [("a.png", "Mass", 1), ("a.png", "Mass", 2)], columns)
    with pytest.raises(UserError, match="listed twice with different patients .a.png."):
        read_chest_table(path)
    path = write_table(tmp_path / TABLE, [("a.png", "Mass", 1), ("b.png", "Mass", ""), ("a.png", "Mass", 1)], columns)
    assert read_chest_table(path).patients == {"a.png": "1"} and len(read_chest_table(path).labels) == 2
    assert f"{path}: 1 repeated names are dropped\n" in capsys.readouterr().err


def test_of_two_tables_the_one_that_is_used_is_named(tmp_path, capsys):
    write_table(tmp_path / "Data_Entry_2017.csv", [("a.png", "Mass", 1)])
    write_table(tmp_path / TABLE, [("a.png", "Hernia", 1)])
    assert find_chest_table(tmp_path / "images").path == tmp_path / "Data_Entry_2017.csv"
    assert f"Data_Entry_2017.csv is used, and no other table: {TABLE}" in capsys.readouterr().err
    assert find_chest_table(tmp_path / "images" / "x") is None


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


def test_a_test_list_of_other_data_is_refused_and_one_of_more_data_is_told(tmp_path, capsys):
    index, names = many_images(tmp_path)
    write_list(tmp_path / "test_list.txt", ["x.png", "y.png"])
    with pytest.raises(UserError, match=f"test_list.txt: none of its 2 names is in {tmp_path} .x.png, y.png."):
        make_chest_lists(tmp_path, tmp_path / "a", index, seed=3)
    assert not (tmp_path / "a").exists()
    write_list(tmp_path / "test_list.txt", ["x.png", *names[:3]])
    make_chest_lists(tmp_path, tmp_path / "a", index, seed=3)
    assert "test_list.txt: 3 of 4 names in --data, 1 not (x.png)\n" in capsys.readouterr().err
    assert sorted(lines_of(tmp_path / "a", "chest", "train")) == names[3:]


def test_a_given_test_list_is_held_out_and_not_made(tmp_path):
    index, names = many_images(tmp_path)
    write_table(tmp_path / TABLE, [(name, "Edema", 0) for name in names])
    write_list(tmp_path / "test_list.txt", names[300:])
    write_list(tmp_path / "given.txt", names[:60])
    make_chest_lists(tmp_path, tmp_path / "a", index, seed=3, test_list=tmp_path / "given.txt")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["chest_train.txt", "chest_valid.txt"]
    kept = [line.split()[0] for part in ("train", "valid") for line in lines_of(tmp_path / "a", "chest", part)]
    assert sorted(kept) == names[60:]


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
    assert read_chest_table(path).labels == {"a.png": (0,) * 14, "b.png": tuple(expected)}
    assert len(FINDINGS) == 14


def test_a_table_without_its_columns_is_named(tmp_path):
    for columns in (("Image Index", "Labels"), ("Image", "Finding Labels")):
        path = write_table(tmp_path / TABLE, [("a.png", "Mass")], columns)
        with pytest.raises(UserError, match=f"{TABLE}: expected the columns .*Image Index.*Finding Labels"):
            read_chest_table(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="expected the columns"):
        read_chest_table(path)


@pytest.mark.parametrize("row", [b"00000002_0", b"00000002_000.png,caf\xe9,0\n"])
def test_a_table_cut_short_or_of_another_encoding_is_named(tmp_path, row):
    path = tmp_path / TABLE
    path.write_bytes(b"Image Index,Finding Labels,Follow-up #\n00000001_000.png,Mass,0\n" + row)
    with pytest.raises(UserError, match=TABLE) as caught:
        read_chest_table(path)
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
        index.join(NameList.of(["train/x.jpg"]), source="x").found(max_bad=0.01)


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


def test_chexperts_list_comes_from_its_table_frontal_and_lateral(chexpert, tmp_path, capsys):
    root, top = chexpert
    listed = [f"{CHEXPERT}/{name}" for name in CHEXPERT_NAMES[:2]]
    write_table(top / "train.csv", [(name, "Female", 60) for name in listed], ("Path", "Sex", "Age"))
    make_chexpert_list(root, tmp_path, index_chexpert(root), seed=3, max_bad=0)
    assert sorted(lines_of(tmp_path, "chexpert", "train")) == listed
    assert (
        f"{top}/train.csv: 2 of 2 rows with an image; 2 of 3 images of train/ with a row, 1 without: in no list "
        f"({CHEXPERT_NAMES[2]})\n"
    ) in capsys.readouterr().err


def test_rows_of_chexperts_table_without_an_image_count_as_broken(tmp_path, capsys):
    listed = [f"train/patient{i:05}/study1/view1_frontal.jpg" for i in range(30)]
    touch(tmp_path, *listed[:29])
    write_table(tmp_path / "train.csv", [(f"{CHEXPERT}/{name}",) for name in listed], ("Path",))
    with pytest.raises(
        UserError, match=rf"train.csv: 1 of its 30 names .*\({listed[29]}\); put the images there, .* --max_bad 0.034$"
    ):
        make_chexpert_list(tmp_path, tmp_path / "a", index_chexpert(tmp_path), seed=1, max_bad=0.03)
    assert not (tmp_path / "a").exists()
    make_chexpert_list(tmp_path, tmp_path / "a", index_chexpert(tmp_path), seed=1, max_bad=0.034)
    assert len(lines_of(tmp_path / "a", "chexpert", "train")) == 30  # what is fetched later is in the list
    assert f"29 of 30 rows with an image, 1 without ({listed[29]}); 29 of 29 images" in capsys.readouterr().err


@pytest.mark.parametrize("inside", [True, False])
def test_chexpert_behind_links_is_found_and_loops_are_not_followed(tmp_path, inside):
    data = tmp_path / "data"
    store = data / "store" if inside else tmp_path / "store"
    touch(store, *CHEXPERT_NAMES)
    data.mkdir(exist_ok=True)
    (data / "train").symlink_to(store / "train")
    (store / "train" / "patient00001" / "up").symlink_to(store)
    assert list(index_chexpert(data).names) == CHEXPERT_NAMES


def test_chexperts_list_is_in_a_seeded_order(tmp_path):
    listed = [f"{CHEXPERT}/train/patient{i:05}/study1/view1_frontal.jpg" for i in range(30)]
    touch(tmp_path, *(name.removeprefix(f"{CHEXPERT}/") for name in listed))
    for seed, rows in ((1, listed), (2, listed[::-1]), (3, listed)):
        write_table(tmp_path / "train.csv", [(name,) for name in rows], ("Path",))
        make_chexpert_list(tmp_path, tmp_path / str(seed), index_chexpert(tmp_path), seed=2 - seed % 2, max_bad=0)
    one, two, again = (lines_of(tmp_path / str(i), "chexpert", "train") for i in (1, 2, 3))
    assert one == again != two and sorted(one) == sorted(two) == listed


def test_chexpert_without_its_table_lists_the_images_of_train(chexpert, tmp_path, capsys):
    root, top = chexpert
    make_chexpert_list(root, tmp_path, index_chexpert(root), seed=3, max_bad=0)
    assert sorted(lines_of(tmp_path, "chexpert", "train")) == CHEXPERT_NAMES
    assert f"no train.csv in {top}: the list is made from the images found" in capsys.readouterr().err


def test_a_chexpert_table_without_paths_is_named(tmp_path):
    touch(tmp_path, CHEXPERT_NAMES[0])
    for columns in (("File",), ("path",)):
        write_table(tmp_path / "train.csv", [("a",)], columns)
        with pytest.raises(UserError, match=f"{tmp_path}/train.csv: expected .*columns?.*Path"):
            make_chexpert_list(tmp_path, tmp_path, index_chexpert(tmp_path), seed=3, max_bad=0)


def test_a_chexpert_table_of_another_encoding_is_named(tmp_path):
    touch(tmp_path, CHEXPERT_NAMES[0])
    (tmp_path / "train.csv").write_bytes(b"Path,Sex\ntrain/caf\xe9.jpg,Female\n")
    with pytest.raises(UserError, match=f"{tmp_path}/train.csv"):
        make_chexpert_list(tmp_path, tmp_path, index_chexpert(tmp_path), seed=3, max_bad=0)


def test_only_chexperts_own_folder_is_taken_off_names():
    names = [f"{CHEXPERT}/train/a.jpg", "CheXpert-v1.0/valid/b.jpg", "train/c.jpg", "x/train/d.jpg"]
    assert list(strip_root_folder(NameList.of(names))) == ["train/a.jpg", "valid/b.jpg", "train/c.jpg", "x/train/d.jpg"]
