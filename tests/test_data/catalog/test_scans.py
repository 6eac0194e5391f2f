"""Which scans a folder holds: LUNA16's subsets, people's own folders, links and names that would meet."""

from pathlib import Path

import pytest

from data.catalog import folders
from data.catalog.folders import walk
from data.catalog.scans import MASKS, find_scans, list_name, split_of
from utils.errors import UserError


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def listed(root):
    return [scan.listed for scan in find_scans(root).scans]


def test_scans_in_subsets_are_all_there_is(tmp_path, capsys):
    touch(tmp_path, "subset0/1.2.3.mhd", "subset0/1.2.3.raw", "subset10/b.MHD", "masks/1.2.3_lung.mhd", "x.nii.gz")
    found = find_scans(tmp_path)
    assert [(scan.folder, scan.name, scan.listed) for scan in found.scans] == [
        ("subset0", "1.2.3", "1.2.3"), ("subset10", "b", "b"),
    ]  # fmt: skip
    assert "2 other volumes are left out (x.nii.gz, masks/1.2.3_lung.mhd)" in capsys.readouterr().err
    find_scans(tmp_path, verbose=False)
    assert capsys.readouterr().err == ""


def test_without_subsets_every_volume_is_a_scan(tmp_path, capsys):
    touch(tmp_path, "b.MHA", "site/a.Nii.GZ", "site/deep/a.nii", "c.nrrd", "site/notes.txt", ".hidden/d.mhd", "._b.mhd")
    assert listed(tmp_path) == ["b", "c", "site/a", "site/deep/a"]
    assert capsys.readouterr().err == ""


def test_subsets_anywhere_keep_their_bare_names_and_their_split(tmp_path):
    touch(tmp_path, "LUNA16/subset0/subset0/a.mhd", "LUNA16/subset8/b.mhd", "LUNA16/seg-lungs-LUNA16/a.mhd")
    assert listed(tmp_path) == ["a", "b"]
    splits = {folder: split_of(folder) for folder in ("", "x", "subset6", "a/subset7/b", "subset9", "subset17")}
    assert splits == {"": "train", "x": "train", "subset6": "train", "a/subset7/b": "valid", "subset9": "valid",
                      "subset17": "train"}  # fmt: skip


def test_own_scans_of_one_name_keep_their_endings(tmp_path):
    touch(tmp_path, "a.mhd", "a.nii.gz", "b/a.nii.gz", "s/a b.mha", "s/a%20b.mha")
    assert listed(tmp_path) == ["a.mhd", "a.nii.gz", "b/a", "s/a%20b", "s/a%2520b"]


def test_masks_are_left_out_by_patterns_but_never_of_luna16(tmp_path, capsys):
    images = ["HGG/p1/p1_t1.nii.gz", "train/CT/volume-3.nii", "Seg-free.nii"]
    masks = ["HGG/p1/p1_SEG.nii.gz", "labelsTr/a.nii.gz", "masks/x/a.mha", "train/seg/segmentation-3.nii"]
    touch(tmp_path, *images, *masks)
    assert [scan.path for scan in find_scans(tmp_path, exclude=MASKS).scans] == [tmp_path / n for n in sorted(images)]
    error = capsys.readouterr().err
    assert f"{tmp_path}: 4 other volumes are left out (HGG/p1/p1_SEG.nii.gz, labelsTr/a.nii.gz" in error
    assert error.endswith("by their names, as masks\n")
    assert len(find_scans(tmp_path, exclude=["VOLUME*", "HGG/"]).scans) == 4
    assert len(find_scans(tmp_path).scans) == 7
    touch(tmp_path, "subset0/1_seg.mhd")
    assert [scan.name for scan in find_scans(tmp_path, exclude=MASKS).scans] == ["1_seg"]


@pytest.mark.parametrize("names", [("subset0/a.mhd", "subset0/a.mha"), ("x/subset0/a.mhd", "y/subset3/a.mhd"),
                                    ("a.mhd", "a.nii", "a.mhd.nii")])  # fmt: skip
def test_scans_whose_names_meet_are_refused(tmp_path, names):
    touch(tmp_path, *names)
    with pytest.raises(UserError, match="expected each scan's name once") as caught:
        find_scans(tmp_path)
    assert str(caught.value).count(str(tmp_path)) == 2


def test_a_listed_name_has_no_blanks():
    assert list_name("Site A", "chest ct\udcff") == "Site%20A/chest%20ct%FF"
    assert list_name("subset3", "1.2") == "1.2"


def test_links_are_followed_and_loops_are_not(tmp_path):
    touch(tmp_path, "data/z/one.mhd", "elsewhere/two.mhd")
    data = tmp_path / "data"
    (data / "a").symlink_to(data / "z")  # would come first by its name
    (data / "z" / "up").symlink_to(data)
    (data / "b").symlink_to(tmp_path / "elsewhere")
    (data / "self").symlink_to(data / "self")
    (data / "gone.mhd").symlink_to(tmp_path / "nowhere")
    assert listed(data) == ["b/two", "gone", "z/one"]
    assert [folder.path for folder in walk(data)] == ["", "z", "b"]


def test_a_folder_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    touch(tmp_path, "good/a.mhd", "locked/b.mhd")
    scandir = folders.os.scandir

    def refuse(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(folders.os, "scandir", refuse)
    found = find_scans(tmp_path)
    assert [scan.listed for scan in found.scans] == ["good/a"]
    assert found.unreadable == [f"{tmp_path}/locked: Permission denied"]
    with pytest.raises(UserError, match=f"cannot read the folder {tmp_path}/locked: Permission denied"):
        list(walk(tmp_path))
