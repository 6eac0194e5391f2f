"""Lists of names in one buffer against lists of Python strings, and the look-up of files by name."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data.catalog.names
from data.catalog.file_index import FileIndex, _places, names_below, names_in, require_folder
from data.catalog.joins import SHOWN
from data.catalog.names import NameList, join_names
from utils.errors import UserError

NAMES = ["a.png", "übér/中.png", "00014058_009.png", "x", "a.png"]
settings.register_profile("names", derandomize=True, max_examples=100, deadline=None)
BUDGET = settings.get_profile("names")


def slow_hash(name):
    mix, content = 0xBF58476D1CE4E5B9, name.encode()
    hashed = len(content) * mix % 2**64
    for start in range(0, len(content), 8):
        hashed = (hashed ^ int.from_bytes(content[start : start + 8], "little")) * mix % 2**64
        hashed ^= hashed >> 29
    return hashed


@BUDGET
@given(st.lists(st.text()))
def test_any_strings_come_back(names):
    ours = NameList.of(names)
    assert list(ours) == names and len(ours) == len(names)
    assert [ours[i] for i in range(-len(names), 0)] == names
    assert ours.lengths.tolist() == [len(name.encode()) for name in names]


@BUDGET
@given(st.lists(st.binary()))
def test_any_bytes_come_back_as_the_system_spells_them(names):
    strings = list(NameList.of(names))
    assert [name.encode("utf-8", "surrogateescape") for name in strings] == names
    assert list(NameList.of(strings)) == strings


@BUDGET
@given(st.lists(st.text()), st.data())
def test_slices_and_masks_are_those_of_a_python_list(names, draw):
    start, stop = sorted(draw.draw(st.tuples(*[st.integers(0, len(names))] * 2)))
    mask = draw.draw(st.lists(st.booleans(), min_size=len(names), max_size=len(names)))
    ours = NameList.of(names)
    assert list(ours.slice(start, stop)) == names[start:stop]
    kept = ours.keep(np.array(mask, dtype=bool))
    assert list(kept) == [name for name, keep in zip(names, mask, strict=True) if keep]
    assert list(kept.slice(0, len(kept))) == list(kept)


@BUDGET
@given(st.lists(st.lists(st.text(), max_size=4), max_size=4))
def test_joined_lists_are_one_after_the_other(parts):
    joined = join_names([NameList.of(part) for part in parts])
    assert list(joined) == [name for part in parts for name in part]


@pytest.mark.parametrize("portion", [1, 7, 20, 1 << 22])
def test_hashes_are_those_worked_out_by_hand_whatever_the_portions(monkeypatch, portion):
    monkeypatch.setattr(data.catalog.names, "HASH_CHUNK_BYTES", portion)
    names = [*NAMES, "\0", "\0\0", "ab", "ba", "a" * 50, "", "12345678", "123456789"]
    hashes = NameList.of(names).hashes()
    assert hashes.dtype == np.uint64
    assert hashes.tolist() == [slow_hash(name) for name in names]
    assert len(set(hashes.tolist())) == len(set(names))
    assert NameList.of(names).slice(2, 6).hashes().tolist() == hashes[2:6].tolist()
    assert len(NameList.of([]).hashes()) == 0


def test_places_among_sorted_numbers_are_numpys():
    rng = np.random.default_rng(0)
    ordered = np.sort(rng.integers(0, 2**64, 300, dtype=np.uint64))
    values = np.concatenate(
        [ordered[::7], rng.integers(0, 2**64, 200, dtype=np.uint64), np.array([0, 2**64 - 1], "u8")]
    )
    assert _places(ordered, values).tolist() == np.searchsorted(ordered, values).tolist()
    assert _places(ordered, values[:0]).tolist() == []


def test_places_beyond_the_end_are_refused():
    ours = NameList.of(NAMES)
    for place in (len(NAMES), -len(NAMES) - 1):
        with pytest.raises(IndexError):
            ours[place]


def test_files_are_found_in_their_folders(tmp_path):
    parts = [["b.png", "a.png"], [], ["c.png", "d.png", "ä.png"]]
    index = FileIndex([tmp_path / str(i) for i in range(3)], [NameList.of(part) for part in parts])
    listed = index.join(NameList.of(["ä.png", "a.png", "d.png", "b.png", "c.png", "a.png"]), source="x")
    assert listed.folder_of.dtype == np.uint16 and listed.folder_of.tolist() == [2, 0, 2, 0, 2, 0]
    assert len(index.left_over(listed)) == 0 and listed.found(max_bad=0) is listed


@pytest.mark.parametrize("n_missing", [1, SHOWN, SHOWN + 1, 40])
def test_missing_files_are_counted_and_the_first_five_named(tmp_path, n_missing):
    here, missing = [f"h{i}" for i in range(7)], [f"m{i:02}" for i in range(n_missing)]
    index = FileIndex([tmp_path / "images"], [NameList.of(here)])
    with pytest.raises(UserError) as caught:
        index.join(NameList.of([*here[:3], *missing, *here[3:]]), source="lists/chest_train.txt").found(max_bad=0)
    message = str(caught.value)
    assert f"lists/chest_train.txt: {n_missing} of its {7 + n_missing} names are not in {tmp_path}" in message
    more = ", ..." if n_missing > SHOWN else ""
    assert f"({', '.join(missing[:SHOWN])}{more})" in message
    assert "--data" in message and "--lists" in message and "\n" not in message


def test_an_index_of_nothing_finds_nothing(tmp_path):
    with pytest.raises(UserError, match="1 of its 1 names"):
        FileIndex([tmp_path], [NameList.of([])]).join(NameList.of(["a"]), source="x").found(max_bad=1)


@pytest.mark.parametrize("folders", [1, 2])
def test_what_no_list_names_is_left_over(tmp_path, folders):
    parts = [["e", "a", "ä", "x"], ["b", "y"]][:folders]
    index = FileIndex([tmp_path / str(i) for i in range(folders)], [NameList.of(part) for part in parts])
    lists = [index.join(NameList.of(names), source="x") for names in (["ä", "n", "a"], ["y", "a"], [])]
    assert sorted(index.left_over(*lists)) == (["e", "x"] if folders == 1 else ["b", "e", "x"])
    assert len(index) == sum(map(len, parts)) and list(lists[0].absent()) == ["n"]


def test_missing_files_up_to_a_share_are_left_out(tmp_path):
    names = [f"{i}.png" for i in range(150)]
    index = FileIndex([tmp_path], [NameList.of([name for name in names if name != "77.png"])])
    listed = index.join(NameList.of(names), source="x")
    found = listed.found(max_bad=0.01)
    assert list(found.names) == names[:77] + names[78:] and found.folder_of.tolist() == [0] * 149
    first, rest = listed.cut(0.5)
    assert list(first.names) == names[:75] and first.there.all()
    assert list(rest.found(max_bad=0.02).names) == [name for name in names[75:] if name != "77.png"]
    with pytest.raises(
        UserError, match=r"1 of its 75 names .*\(77.png\); .*; to continue without them: --max_bad 0.014$"
    ):
        rest.found(max_bad=0.01)
    assert len(rest.found(max_bad=0.014).names) == 74


def test_a_file_in_two_folders_is_refused_unless_it_is_a_link(tmp_path):
    for folder, name in [
        ("images", "a.png"),
        ("images_001", "a.png"),
        ("images_001", "b.png"),
        ("images_002", "c.png"),
    ]:
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_text(folder)
    (tmp_path / "images" / "b.png").symlink_to(tmp_path / "images_001" / "b.png")
    folders = [tmp_path / name for name in ("images", "images_001", "images_002")]

    def index():
        return FileIndex(folders, [names_in(folder, (b".png",)) for folder in folders])

    with pytest.raises(UserError, match=rf"1 names are in two folders, a.png in {folders[0]} and in {folders[1]}"):
        index()
    (folders[0] / "a.png").unlink()
    listed = index().join(NameList.of(["c.png", "b.png", "a.png"]), source="x")
    assert (
        listed.folder_of.tolist() == [2, 0, 1]
        and len(index()) == 3
        and list(index().names) == ["b.png", "a.png", "c.png"]
    )


def test_a_folder_must_be_there_and_hold_something(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=f"--data: expected a folder, there is none at {tmp_path}/none"):
        require_folder(tmp_path / "none")
    with pytest.raises(UserError, match="--save: expected a folder"):
        require_folder(tmp_path / "file", "--save")
    with pytest.raises(UserError, match=f"--data: {tmp_path}/empty is empty"):
        require_folder(tmp_path / "empty")
    assert require_folder(str(tmp_path)) == tmp_path


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=f"--data: cannot read {tmp_path}: Permission denied"):
        require_folder(tmp_path)


def test_files_by_ending_in_one_folder_and_below(tmp_path):
    for name in ("b.PNG", "a.jpg", "c.txt", "sub/d.png", "sub/deep/e.Jpg", "sub/f.png.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    endings = (b".png", b".jpg")
    assert list(names_in(tmp_path, endings)) == ["a.jpg", "b.PNG"]
    assert list(names_below(tmp_path, endings)) == ["a.jpg", "b.PNG", "sub/d.png", "sub/deep/e.Jpg"]
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "sub" / "up").symlink_to(tmp_path)
    assert list(names_below(tmp_path, endings)) == ["a.jpg", "b.PNG", "sub/d.png", "sub/deep/e.Jpg"]
    assert len(names_in(tmp_path, (b".gif",))) == len(names_below(tmp_path, (b".gif",))) == 0
