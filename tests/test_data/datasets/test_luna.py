"""Crop pairs on disk: which belong to which part, the lists made of them, and files that are no crops."""

import json
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.catalog.list_folders import ListFolders
from data.catalog.lists import fingerprint, read_names
from data.catalog.names import NameList
from data.datasets.crop_lists import index_cases, leave_out_failed, make_crop_lists
from data.datasets.luna import CropFile, find_crop_files, read_crop
from data.datasets.pretraining import open_dataset
from utils.errors import UserError

PAIR, LOCAL = (2, 6, 5, 4), (3, 2, 3, 4)


def make_luna_lists(root, lists, *, seed):
    make_crop_lists(lists, name="luna", root=root, find=partial(find_crop_files, root), seed=seed)


def write_pair(root, subset, scan, number=0, dtype=np.float32):
    """A lopsided pair whose values tell it from others."""
    folder = root / f"subset{subset}"
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(subset * 100 + number)
    paths = folder / f"{scan}_global_{number}.npy", folder / f"{scan}_local_{number}.npy"
    arrays = [rng.random(shape).astype(dtype) for shape in (PAIR, LOCAL)]
    for path, array in zip(paths, arrays, strict=True):
        np.save(path, array)
    return CropFile(scan, f"subset{subset}/{paths[0].name}", *paths), arrays


@pytest.fixture
def root(tmp_path):
    """Scans a and b pre-train, c validates; a name may hold what looks like another ending."""
    for subset, scan, number in [(0, "1.3.a", 0), (0, "1.3.a", 10), (6, "b_global_7", 2), (7, "c", 0), (9, "c", 1)]:
        write_pair(tmp_path, subset, scan, number)
    (tmp_path / "subset0" / "notes_global_x.npy").touch()
    (tmp_path / "subset12").mkdir()
    return tmp_path


def test_subsets_0_to_6_pretrain_and_7_to_9_validate(root):
    train = find_crop_files(root, "train")
    assert [(crop.scan, crop.name) for crop in train] == [
        ("1.3.a", "subset0/1.3.a_global_0.npy"),
        ("1.3.a", "subset0/1.3.a_global_10.npy"),
        ("b_global_7", "subset6/b_global_7_global_2.npy"),
    ]
    assert train[1].pair == root / "subset0" / "1.3.a_global_10.npy"
    assert train[2].local == root / "subset6" / "b_global_7_local_2.npy"
    assert [crop.name for crop in find_crop_files(root, "valid")] == [
        "subset7/c_global_0.npy",
        "subset9/c_global_1.npy",
    ]


def test_crops_of_own_scans_pretrain_wherever_they_lie(root, tmp_path_factory):
    (root / "a_global_0.npy").touch()
    for folder in ("site a/x", "subset12", "subset8/deep"):
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / "s_global_3.npy").touch()
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "t_global_0.npy").touch()
    (root / "linked").symlink_to(elsewhere)
    (root / "linked" / "back").symlink_to(root)
    train = {(crop.scan, crop.name) for crop in find_crop_files(root, "train")}
    assert train == {
        ("a", "a_global_0.npy"), ("1.3.a", "subset0/1.3.a_global_0.npy"), ("1.3.a", "subset0/1.3.a_global_10.npy"),
        ("b_global_7", "subset6/b_global_7_global_2.npy"), ("site%20a/x/s", "site a/x/s_global_3.npy"),
        ("s", "subset12/s_global_3.npy"), ("linked/t", "linked/t_global_0.npy"),
    }  # fmt: skip
    assert [crop.scan for crop in find_crop_files(root, "valid")] == ["c", "subset8/deep/s", "c"]


def test_one_crop_in_two_folders_is_refused(root):
    write_pair(root, 6, "1.3.a", 0)
    with pytest.raises(UserError, match="expected each crop pair once, .*subset0.* and .*subset6/1.3.a_global_0.npy"):
        find_crop_files(root, "train")


def write_manifest(root, failures):
    (root / "manifest.json").write_text(json.dumps({"failures": failures}))


def listed_scans(root, names):
    return index_cases(root, find_crop_files(root, "train")).join(NameList.of(names), source="luna_train.txt")


def test_scans_recorded_as_failed_are_left_out_of_the_list(root, capsys):
    listed = listed_scans(root, ["x", "1.3.a", "y", "b_global_7"])
    assert leave_out_failed(listed, root) is listed  # no manifest: of the published program
    # Preprocessed again since, it has crops; and a failed scan that no list names is not reported.
    write_manifest(root, {"x": "why", "1.3.a": "why", "z": "why"})
    kept = leave_out_failed(listed, root)
    assert list(kept.names) == ["1.3.a", "y", "b_global_7"] and kept.there.tolist() == [True, False, True]
    error = capsys.readouterr().err
    assert error == (
        "luna_train.txt: 1 of its 4 scans gave no crops when they were preprocessed and are left out (x); "
        f"{root}/manifest.json says why\n"
    )
    for damaged in ("{", "[]", '{"failures": 3}', "{}"):
        (root / "manifest.json").write_text(damaged)
        assert leave_out_failed(listed, root) is listed


def test_pretraining_goes_on_without_failed_scans(root, tmp_path_factory, capsys):
    lists = tmp_path_factory.mktemp("lists")
    (lists / "luna_train.txt").write_text("x\n1.3.a\nb_global_7\nc\n")
    write_manifest(root, {"x": "why"})
    opened = open_dataset(name="luna", root=root, lists=ListFolders.at(lists), ratio=0.75, seed=0)
    assert len(opened) == 3 and "1 of its 3 scans gave no crops" in capsys.readouterr().err


def test_folders_without_crops_say_what_to_do(tmp_path):
    with pytest.raises(UserError, match="--data: expected a folder, there is none at"):
        find_crop_files(tmp_path / "none", "train")
    with pytest.raises(UserError, match="is empty"):
        find_crop_files(tmp_path, "train")
    (tmp_path / "subset8").mkdir()
    with pytest.raises(UserError, match=rf"--data: expected subset0..6 with \*_global_\*.npy .* in {tmp_path}"):
        find_crop_files(tmp_path, "train")
    with pytest.raises(UserError, match="--data: expected subset7..9 with"):
        find_crop_files(tmp_path, "valid")
    (tmp_path / "subset8" / "1.3.mhd").touch()
    with pytest.raises(UserError, match="holds scans, not crops; run luna_preprocess.py --data"):
        find_crop_files(tmp_path, "train")
    (tmp_path / "subset8" / "1.3.mhd").rename(tmp_path / "notes.txt")
    (tmp_path / "IM0001").write_bytes(bytes(128) + b"DICM")
    with pytest.raises(UserError, match="holds scans, not crops; run luna_preprocess.py --data"):
        find_crop_files(tmp_path, "train")


def test_lists_are_made_of_the_scans_found(root, capsys):
    lists = root / "lists"
    make_luna_lists(root, lists, seed=3)
    assert sorted(read_names(lists / "luna_train.txt")) == ["1.3.a", "b_global_7"]
    assert list(read_names(lists / "luna_valid.txt")) == ["c"]
    assert f"made {lists}/luna_train.txt from {root}: 2 names" in capsys.readouterr().err


def test_a_made_list_is_in_a_seeded_order(tmp_path):
    for i in range(12):
        write_pair(tmp_path, 0, f"s{i:02}")
    orders = []
    for seed in (3, 3, 4):
        make_luna_lists(tmp_path, tmp_path / f"lists{len(orders)}", seed=seed)
        orders.append(list(read_names(tmp_path / f"lists{len(orders)}" / "luna_train.txt")))
    assert orders[0] == orders[1] != orders[2] and sorted(orders[0]) == sorted(orders[2]) != orders[0]


def test_without_validation_only_the_training_list_is_made(tmp_path):
    write_pair(tmp_path, 0, "a")
    make_luna_lists(tmp_path, tmp_path / "lists", seed=3)
    assert [path.name for path in (tmp_path / "lists").iterdir()] == ["luna_train.txt"]


def test_without_training_crops_no_list_is_made(tmp_path):
    write_pair(tmp_path, 7, "a")
    with pytest.raises(UserError, match="expected subset0..6"):
        make_luna_lists(tmp_path, tmp_path / "lists", seed=3)
    assert not (tmp_path / "lists").exists()


def test_a_list_that_is_there_is_left_as_it_is(root):
    (root / "luna_train.txt").write_text("1.3.a\n")
    make_luna_lists(root, root, seed=3)
    assert list(read_names(root / "luna_train.txt")) == ["1.3.a"]
    assert list(read_names(root / "luna_valid.txt")) == ["c"]


def open_crops(root, names, **kwargs):
    (root / "luna_train.txt").write_text("".join(f"{name}\n" for name in names))
    return open_dataset(name="luna", root=root, lists=ListFolders.at(root), ratio=1.0, seed=0, **kwargs)


def test_all_crops_of_the_listed_scans_are_found(root, capsys):
    opened = open_crops(root, ["1.3.a"])
    assert [crop.name for crop in opened.crops] == ["subset0/1.3.a_global_0.npy", "subset0/1.3.a_global_10.npy"]
    error = capsys.readouterr().err
    assert (
        f"{root}/luna_train.txt: 1 of 1 names in --data; 1 of 2 scans of --data in a list, 1 scans in no list" in error
    )
    assert f"{root}: 1 scans in subset7 to subset9 are for validation, and not pre-trained on\n" in error
    opened = open_crops(root, ["b_global_7", "1.3.a"])
    assert opened.crops == find_crop_files(root, "train")
    assert "2 of 2 names in --data; 2 of 2 scans of --data in a list\n" in capsys.readouterr().err


def test_listed_scans_that_are_not_there_are_counted_and_named(root):
    names = ["c", "1.3.a", *(f"x{i}" for i in range(6))]
    with pytest.raises(UserError, match=f"luna_train.txt: 7 of its 8 names are not in {root} ") as caught:
        open_crops(root, names)
    assert "(c, x0, x1, x2, x3, ...)" in str(caught.value)
    opened = open_crops(root, names, max_bad=7 / 8)
    assert {crop.scan for crop in opened.crops} == {"1.3.a"}
    assert opened.fingerprint == fingerprint(NameList.of(["1.3.a"]))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f8"])
def test_every_float_becomes_float32(tmp_path, dtype):
    crop, arrays = write_pair(tmp_path, 0, "a", dtype=dtype)
    for ours, array in zip(read_crop(crop), arrays, strict=True):
        assert ours.dtype == torch.float32
        assert np.array_equal(ours.numpy(), array.astype(np.float32))


def test_axes_stay_in_their_order_whatever_the_memory_order(tmp_path):
    crop, arrays = write_pair(tmp_path, 0, "a")
    np.save(crop.pair, np.asfortranarray(arrays[0]))
    assert np.array_equal(read_crop(crop)[0].numpy(), arrays[0])


BAD = {
    "three": (np.zeros((3, 6, 5, 4), np.float32), "expected two crops"),
    "one": (np.zeros((1, 6, 5, 4), np.float32), r"expected two crops, shape \(2, x, y, z\), got \(1, 6, 5, 4\)"),
    "flat": (np.zeros((2, 6, 5), np.float32), "with 4 dimensions"),
    "deep": (np.zeros((1, 2, 6, 5, 4), np.float32), "with 4 dimensions"),
    "empty": (np.zeros((2, 6, 0, 4), np.float32), "with 4 dimensions"),
    "integers": (np.zeros(PAIR, np.int16), "floating point"),
    "complex": (np.zeros(PAIR, np.complex64), "floating point"),
    "nan": (np.where(np.arange(240).reshape(PAIR) == 77, np.nan, 0.5), "not finite"),
    "infinite": (np.where(np.arange(240).reshape(PAIR) == 239, -np.inf, 0.5), "not finite"),
    "beyond float32": (np.full(PAIR, 1e300), "not finite"),
}


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("name", BAD)
def test_arrays_that_are_no_crop_pair_are_refused(tmp_path, name):
    array, message = BAD[name]
    crop, _ = write_pair(tmp_path, 0, "a")
    np.save(crop.pair, array)
    with pytest.raises(UserError, match=message) as caught:
        read_crop(crop)
    assert str(crop.pair) in str(caught.value) and "\n" not in str(caught.value)


def test_bad_local_crops_are_refused_too(tmp_path):
    crop, _ = write_pair(tmp_path, 0, "a")
    np.save(crop.local, np.full(LOCAL, np.nan))
    with pytest.raises(UserError, match=f"{crop.local}: holds values that are not finite"):
        read_crop(crop)
    crop.local.unlink()
    with pytest.raises(UserError, match=f"expected crops, there is no file {crop.local}"):
        read_crop(crop)


class Hostile:
    ran = False

    def __reduce__(self):
        return setattr, (Hostile, "ran", True)


def test_pickled_objects_are_refused_and_never_run(tmp_path):
    crop, _ = write_pair(tmp_path, 0, "a")
    np.save(crop.pair, np.full(PAIR, Hostile(), dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="a_global_0.npy: expected an array of crops"):
        read_crop(crop)
    crop.pair.write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(UserError, match="a_global_0.npy: expected an array of crops"):
        read_crop(crop)
    assert not Hostile.ran


def test_an_archive_of_arrays_is_refused(tmp_path):
    crop, arrays = write_pair(tmp_path, 0, "a")
    with open(crop.pair, "wb") as file:
        np.savez(file, arrays[0])
    with pytest.raises(UserError, match="a_global_0.npy: expected an array of crops.*archive"):
        read_crop(crop)


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 cut archive", b"not an array", b"\x93NUMPY", b"\x93NUMPY\x09\x09"]
)
def test_other_files_are_refused(tmp_path, content):
    crop, _ = write_pair(tmp_path, 0, "a")
    crop.pair.write_bytes(content)
    with pytest.raises(UserError, match=f"{crop.pair}: expected an array of crops") as caught:
        read_crop(crop)
    assert "\n" not in str(caught.value)


def test_every_cut_is_noticed(tmp_path):
    crop, _ = write_pair(tmp_path, 0, "a")
    whole = crop.pair.read_bytes()
    for length in range(0, len(whole), 9):
        crop.pair.write_bytes(whole[:length])
        with pytest.raises(UserError, match="damaged or something else"):
            read_crop(crop)


@pytest.mark.filterwarnings("ignore")
@settings(
    derandomize=True, max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(st.integers(0, 127), st.integers(0, 255) | st.sampled_from(b"09-()[]{}',: ")), min_size=1, max_size=3
    )
)
def test_damaged_headers_give_crops_or_one_line(tmp_path, damage):
    crop, _ = write_pair(tmp_path, 0, "a")
    content = bytearray(crop.pair.read_bytes())
    for place, byte in damage:
        content[place] = byte
    crop.pair.write_bytes(bytes(content))
    try:
        assert len(read_crop(crop)[0]) == 2
    except UserError as error:
        assert str(crop.pair) in str(error) and "\n" not in str(error)
