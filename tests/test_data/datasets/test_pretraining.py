"""From a folder and a list to single samples: every layout of every data set, and samples that are broken."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from data.catalog.list_folders import ListFolders
from data.catalog.lists import fingerprint, read_names
from data.catalog.names import NameList
from data.datasets.images import ImageFiles
from data.datasets.luna import CropFiles, find_crop_files
from data.datasets.pretraining import open_dataset
from data.readers.images import ImageSpec
from utils.errors import UserError
from utils.records import RawCrops, RawImages

CHEXPERT = "CheXpert-v1.0-small"
PAIR, LOCAL = (2, 6, 5, 4), (3, 2, 3, 4)


def write_image(path, value, size=(5, 7)):
    """A grey image of one value, ``size`` high and wide."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size[::-1], value).save(path)


def write_crops(root, subset, scan, number=0, *, pair=PAIR, local=LOCAL, dtype=np.float32):
    folder = root / f"subset{subset}"
    folder.mkdir(parents=True, exist_ok=True)
    for kind, shape in (("global", pair), ("local", local)):
        values = np.arange(np.prod(shape)).reshape(shape) / 1000 + number
        np.save(folder / f"{scan}_{kind}_{number}.npy", values.astype(dtype))


def write_list(folder, name, lines):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}_train.txt").write_text("".join(line + "\n" for line in lines))


def value_of(sample):
    (image,) = sample
    assert image.dtype == torch.uint8 and image.shape == (1, 5, 7)
    return image.unique().item()


def open_chest(tmp_path, **kwargs):
    settings = {"root": tmp_path / "nih", "lists": ListFolders.at(tmp_path / "lists"), "ratio": 1.0, "seed": 1}
    return open_dataset(name="chest", **settings | kwargs)


@pytest.mark.parametrize("folders", [["."], ["images"], ["images_001/images", "images_002/images"]])
def test_nih_images_come_in_the_order_of_the_list(tmp_path, folders):
    values = {f"0000000{i}_000.png": 10 * i for i in range(1, 5)}
    for i, (name, value) in enumerate(values.items()):
        write_image(tmp_path / "nih" / folders[i % len(folders)] / name, value)
    order = sorted(values, reverse=True)
    write_list(tmp_path / "lists", "chest", [name + " 0" * 14 for name in order])
    dataset = open_chest(tmp_path)
    assert isinstance(dataset, ImageFiles) and len(dataset) == 4
    assert [value_of(dataset[i]) for i in range(4)] == [40, 30, 20, 10]
    assert [dataset.name(i) for i in range(4)] == order
    assert dataset.fingerprint == fingerprint(NameList.of(order))
    assert dataset.path(0).read_bytes()[:4] == b"\x89PNG"


def test_the_first_share_of_the_list_pretrains(tmp_path):
    names = [f"{i}.png" for i in range(10)]
    for i, name in enumerate(names):
        write_image(tmp_path / "nih" / name, i)
    write_list(tmp_path / "lists", "chest", names)
    dataset = open_chest(tmp_path, ratio=0.39)
    assert [value_of(dataset[i]) for i in range(len(dataset))] == [0, 1, 2]
    assert dataset.fingerprint != open_chest(tmp_path, ratio=0.4).fingerprint
    with pytest.raises(UserError, match=f"--ratio: 0.09 of the names in {tmp_path}/lists/chest_train.txt is not one"):
        open_chest(tmp_path, ratio=0.09)
    with pytest.raises(UserError, match="is not one whole name, it has 10; give a larger --ratio"):
        open_chest(tmp_path, ratio=0.09)


def test_a_list_that_is_missing_is_made_once_and_kept(tmp_path):
    for i in range(8):
        write_image(tmp_path / "nih" / "images" / f"{i}.png", i)
    first = open_chest(tmp_path, seed=1)
    kept = (tmp_path / "lists" / "chest_train.txt").read_text()
    assert list(first.names) == kept.splitlines() != sorted(first.names)
    assert open_chest(tmp_path, seed=2).fingerprint == first.fingerprint
    assert (tmp_path / "lists" / "chest_train.txt").read_text() == kept


def test_images_that_are_missing_are_counted_up_front(tmp_path):
    write_image(tmp_path / "nih" / "images" / "a.png", 1)
    write_list(tmp_path / "lists", "chest", ["a.png", *(f"m{i}.png" for i in range(7))])
    with pytest.raises(UserError, match=r"chest_train.txt: 7 of its 8 names .*\(m0.png, .*, m4.png, ...\)"):
        open_chest(tmp_path)
    with pytest.raises(UserError, match="--data: expected a folder"):
        open_chest(tmp_path, root=tmp_path / "none")


def test_a_split_without_a_list_is_named(tmp_path):
    write_image(tmp_path / "nih" / "a.png", 1)
    with pytest.raises(UserError, match="cannot read the list .*chest_valid.txt"):
        open_chest(tmp_path, split="valid")


def test_a_broken_image_is_told_by_its_file(tmp_path):
    write_image(tmp_path / "nih" / "a.png", 1)
    (tmp_path / "nih" / "b.png").write_bytes(b"no image")
    write_list(tmp_path / "lists", "chest", ["a.png", "b.png"])
    dataset = open_chest(tmp_path)
    with pytest.raises(UserError, match=f"{tmp_path}/nih/b.png: expected a PNG, JPEG"):
        dataset[1]


def test_large_images_are_shrunk_when_asked(tmp_path):
    write_image(tmp_path / "nih" / "a.png", 9, size=(40, 60))
    assert open_chest(tmp_path)[0][0].shape == (1, 40, 60)
    assert open_chest(tmp_path, spec=ImageSpec(30))[0][0].shape == (1, 20, 30)


def test_images_of_different_sizes_lie_in_the_upper_left_corner(tmp_path):
    for i, size in enumerate([(3, 8), (6, 2), (4, 4)]):
        write_image(tmp_path / "nih" / f"{i}.png", i + 1, size=size)
    write_list(tmp_path / "lists", "chest", ["0.png", "1.png", "2.png"])
    dataset = open_chest(tmp_path)
    batch = dataset.collate([dataset[i] for i in range(3)])
    assert isinstance(batch, RawImages) and batch.pixels.dtype == torch.uint8
    assert batch.sizes.dtype == torch.int64 and batch.sizes.tolist() == [[3, 8], [6, 2], [4, 4]]
    expected = torch.zeros(3, 1, 6, 8, dtype=torch.uint8)
    expected[0, 0, :3, :8], expected[1, 0, :6, :2], expected[2, 0, :4, :4] = 1, 2, 3
    assert torch.equal(batch.pixels, expected)


@pytest.mark.parametrize("nested", ["", CHEXPERT])
@pytest.mark.parametrize("with_list", [True, False])
def test_chexpert_frontal_and_lateral_by_its_table(tmp_path, nested, with_list):
    values = {f"train/patient0000{i}/study1/view{v}.jpg": 20 * i + 8 * v for i in (1, 2, 3) for v in (1, 2)}
    values = {name[:-4] + ("_frontal.jpg" if "view1" in name else "_lateral.jpg"): v for name, v in values.items()}
    top = tmp_path / "data" / nested
    for name, value in {**values, "valid/patient00009/study1/view1_frontal.jpg": 200}.items():
        write_image(top / name, value)
    with open(top / "train.csv", "w", newline="") as file:
        csv.writer(file).writerows([("Path", "Sex"), *((f"{CHEXPERT}/{name}", "Male") for name in values)])
    if with_list:
        write_list(tmp_path / "lists", "chexpert", [f"{CHEXPERT}/{name} 1 0" for name in values])
    dataset = open_dataset(
        name="chexpert", root=tmp_path / "data", lists=ListFolders.at(tmp_path / "lists"), ratio=1.0, seed=1
    )
    assert sorted(dataset.names) == sorted(values)
    assert (list(dataset.names) == list(values)) == with_list
    for i in range(6):
        assert abs(value_of(dataset[i]) - values[dataset.name(i)]) <= 1
    assert len(read_names(tmp_path / "lists" / "chexpert_train.txt")) == 6


def test_chexpert_images_that_the_table_lists_must_be_there(tmp_path):
    write_image(tmp_path / "data" / "train" / "a.jpg", 1)
    (tmp_path / "data" / "train.csv").write_text(f"Path\n{CHEXPERT}/train/a.jpg\n{CHEXPERT}/train/b.jpg\n")
    with pytest.raises(UserError, match=r"1 of its 2 names .*\(train/b.jpg\)"):
        open_dataset(
            name="chexpert", root=tmp_path / "data", lists=ListFolders.at(tmp_path / "lists"), ratio=1.0, seed=1
        )


def open_luna(tmp_path, **kwargs):
    settings = {"root": tmp_path / "crops", "lists": ListFolders.at(tmp_path / "lists"), "ratio": 1.0, "seed": 1}
    return open_dataset(name="luna", **settings | kwargs)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_luna_crops_of_the_listed_scans(tmp_path, dtype):
    for subset, scan, number in [(0, "a", 0), (0, "a", 1), (3, "b", 0), (6, "c", 0), (7, "d", 0)]:
        write_crops(tmp_path / "crops", subset, scan, number, dtype=dtype)
    write_list(tmp_path / "lists", "luna", ["c", "a", "b"])
    dataset = open_luna(tmp_path, ratio=0.7)
    assert isinstance(dataset, CropFiles) and dataset.fingerprint == fingerprint(NameList.of(["c", "a"]))
    names = [dataset.name(i) for i in range(len(dataset))]
    assert names == ["subset0/a_global_0.npy", "subset0/a_global_1.npy", "subset6/c_global_0.npy"]
    pair, local = dataset[1]
    assert pair.dtype == local.dtype == torch.float32 and (pair.shape, local.shape) == (PAIR, LOCAL)
    torch.testing.assert_close(pair, torch.arange(240.0).reshape(PAIR) / 1000 + 1, rtol=1e-3, atol=0)
    batch = dataset.collate([dataset[i] for i in (1, 0)])
    assert isinstance(batch, RawCrops) and (batch.pair.shape, batch.local.shape) == ((2, *PAIR), (2, *LOCAL))
    assert torch.equal(batch.pair[0], pair) and torch.equal(batch.local[1], dataset[0][1])


def test_luna_lists_are_made_and_the_validation_part_is_apart(tmp_path):
    for subset, scan in [(0, "a"), (6, "b"), (7, "c"), (9, "d")]:
        write_crops(tmp_path / "crops", subset, scan)
    train, valid = open_luna(tmp_path), open_luna(tmp_path, split="valid")
    assert [crop.scan for crop in train.crops] == ["a", "b"] and [crop.scan for crop in valid.crops] == ["c", "d"]


def test_luna_scans_without_crops_are_counted(tmp_path):
    write_crops(tmp_path / "crops", 0, "a")
    write_list(tmp_path / "lists", "luna", ["x", "a", "y"])
    with pytest.raises(UserError, match=rf"2 of its 3 names are not in {tmp_path}/crops \(x, y\)"):
        open_luna(tmp_path)


def test_crops_of_another_shape_than_the_first_are_refused(tmp_path):
    write_crops(tmp_path / "crops", 0, "a")
    write_crops(tmp_path / "crops", 1, "b", pair=(2, 5, 6, 4))
    write_crops(tmp_path / "crops", 2, "c", local=(2, 2, 3, 4))
    dataset = open_luna(tmp_path)
    for index, name, shape in [(1, "b_global_0.npy", r"\(2, 5, 6, 4\)"), (2, "c_global_0.npy", r"\(2, 2, 3, 4\)")]:
        with pytest.raises(UserError, match=rf"{name}: expected crops of .*\(2, 6, 5, 4\).* got .*{shape}"):
            dataset[index]


def test_broken_crops_are_refused_one_by_one_and_the_shape_is_of_the_first_good_file(tmp_path):
    for i, scan in enumerate("abc"):
        write_crops(tmp_path / "crops", i, scan)
    (tmp_path / "crops" / "subset0" / "a_global_0.npy").write_bytes(b"cut")
    local = tmp_path / "crops" / "subset1" / "b_local_0.npy"
    np.save(local, np.full((9, 9, 9, 9), np.nan, np.float32))
    dataset = open_luna(tmp_path)
    with pytest.raises(UserError, match="a_global_0.npy"):
        dataset[0]
    with pytest.raises(UserError, match=f"{local}: holds values that are not finite"):
        dataset[1]
    assert dataset[2][0].shape == PAIR and dataset.shapes == (PAIR, LOCAL)


def test_crops_that_are_all_broken_are_told_at_once(tmp_path):
    for i, scan in enumerate("ab"):
        write_crops(tmp_path / "crops", i, scan)
        (tmp_path / "crops" / f"subset{i}" / f"{scan}_local_0.npy").unlink()
    with pytest.raises(UserError, match="expected crops, there is no file .*b_local_0.npy"):
        CropFiles(find_crop_files(tmp_path / "crops", "train"), NameList.of(["a", "b"]))


def test_an_unknown_data_set_is_a_bug_of_the_caller(tmp_path):
    with pytest.raises(KeyError):
        open_dataset(name="mnist", root=tmp_path, lists=ListFolders.at(tmp_path), ratio=1.0, seed=1)
