"""Folders of segmentation data sets: images and masks, channels, tables, lists; both sides counted."""

import pytest

from data.catalog.list_folders import ListFolders
from data.datasets.brats import find_brats
from data.datasets.folder import find_folder
from data.datasets.lits import find_lits
from data.datasets.segmentation import open_segmentation
from utils.errors import UserError


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def brats(root, count=7):
    kinds = ("t1", "t2", "flair", "t1ce", "seg")
    return touch(
        root, *(f"{'HGG' if i % 2 else 'LGG'}/p{i}/p{i}_{kind}.nii.gz" for i in range(count) for kind in kinds)
    )


def flat(root, count=8):
    return touch(root, *(f"{part}/x{i}.png" for i in range(count) for part in ("images", "masks")))


def test_masks_without_an_image_are_told_and_images_without_a_mask_refused(tmp_path, capsys):
    root = touch(flat(tmp_path), "masks/y.png")
    assert len(find_folder(root, 2, classes=1).cases) == 8
    assert capsys.readouterr().err == (
        f"{root}: 8 of 8 images with a mask; 8 of 9 masks with an image, 1 without: not used (y.png)\n"
    )
    touch(root, *(f"images/z{i}.png" for i in range(6)))
    with pytest.raises(
        UserError, match=r"6 of 14 images .* lack files \(no mask of z0.png, .*no mask of z4.png, ...\)"
    ):
        find_folder(root, 2, classes=1)


def test_a_table_of_patients_is_joined_with_the_images(tmp_path, capsys):
    root = flat(tmp_path)
    (root / "patients.csv").write_text("name,patient\nx1.png,a\nx2,a\nx9,b\nx2,a\n")
    patients = {case.name: case.patient for case in find_folder(root, 2, classes=1).cases}
    assert patients == {f"x{i}": "a" if i in (1, 2) else f"x{i}" for i in range(8)}
    error = capsys.readouterr().err
    assert "patients.csv: 1 repeated names are dropped\n" in error
    assert (
        "patients.csv: 2 of 8 images with a row, 6 without: each a patient of its own (x0, x3, x4, x5, x6, ...); "
        "2 of 3 rows with an image, 1 without (x9)\n"
    ) in error
    for rows, message in (
        ("x1,a\nx1.png,b\n", "listed twice with different patients .x1."),
        ("y,a\n", "none of its 1 is"),
    ):
        (root / "patients.csv").write_text("name,patient\n" + rows)
        with pytest.raises(UserError, match=f"patients.csv: .*{message}"):
            find_folder(root, 2, classes=1)


def test_a_folders_test_list_is_joined_with_the_images(tmp_path, capsys):
    root = flat(tmp_path)
    (root / "test.txt").write_text("x3.png\nx4\nx3\ny\n")
    assert find_folder(root, 2, classes=1).test == ["x3", "x4"]
    assert "test.txt: 2 of 3 names in --data, 1 not (y)\n" in capsys.readouterr().err
    (root / "test.txt").write_text("y\n")
    with pytest.raises(UserError, match=r"test.txt: expected names of images, none of its 1 is one \(y\)"):
        find_folder(root, 2, classes=1)


def test_channels_that_are_missing_or_there_twice_are_named(tmp_path):
    root = brats(tmp_path)
    (root / "HGG/p1/p1_t1.nii.gz").unlink()
    (root / "HGG/p1/p1_seg.nii.gz").unlink()
    (root / "LGG/p4/p4_flair.nii.gz").unlink()
    with pytest.raises(UserError, match=r"2 of 7 patients .* lack files \(p1: t1, seg, p4: flair\)"):
        find_brats(root)
    touch(root, "LGG/p0/p0_t2.nii")
    with pytest.raises(UserError, match="expected one file of a name, got .*p0_t2.nii.gz and .*p0_t2.nii"):
        find_brats(root)


def test_scans_and_masks_of_lits_are_joined_by_their_number(tmp_path, capsys):
    root = touch(tmp_path, "train/CT/volume0.nii", "train/seg/segmentation0.nii", "train/seg/segmentation-1.nii.gz",
                 "test/CT/volume-2.nii", "test/CT/volume-3.nii", "test/seg/segmentation-3.nii")  # fmt: skip
    assert [case.name for case in find_lits(root).cases] == ["train_volume0", "test_volume3"]
    assert capsys.readouterr().err == (
        f"{root}/train: 1 of 1 scans with a mask; 1 of 2 masks with a scan, 1 without (segmentation-1.nii.gz)\n"
        f"{root}/test: 1 of 2 scans with a mask, 1 without: not used (volume-2.nii); 1 of 1 masks with a scan\n"
    )
    touch(root, "train/CT/volume-0.nii.gz")
    with pytest.raises(UserError, match="expected one file of a number, got .*volume-0.nii.gz and .*volume0.nii"):
        find_lits(root)


def open_brats(root, lists, **kwargs):
    settings = {"ratio": 0, "seed": 1, "dim": 3, "crop": (8, 8, 8)} | kwargs
    return open_segmentation(name="brats", root=root, lists=ListFolders.at(lists), **settings)


def names_of(splits):
    return sorted(case.name for split in splits[:3] for case in split.cases)


def test_lists_of_cases_are_joined_with_the_folder(tmp_path, capsys):
    root, lists = brats(tmp_path / "brats"), tmp_path / "lists"
    touch(lists, "brats_train.txt")
    (lists / "brats_train.txt").write_text("p0\np1\np2\nq\np3\n")
    (lists / "brats_test.txt").write_text("p5\n")
    with pytest.raises(UserError, match=r"brats_train.txt: 1 of its 5 names are not in .*\(q\)"):
        open_brats(root, lists)
    capsys.readouterr()
    assert names_of(open_brats(root, lists, max_bad=0.2)) == ["p0", "p1", "p2", "p3", "p5"]
    assert capsys.readouterr().err.splitlines() == [
        f"{lists}/brats_test.txt: 1 of 1 names in --data",
        f"{lists}/brats_train.txt: 4 of 5 names in --data, 1 not (q); 5 of 7 cases of --data in a list, 2 cases in no "
        "list (p4, p6)",
    ]
    # The first share of the list is that of all names in it.
    assert names_of(open_brats(root, lists, ratio=0.2, max_bad=0.25)) == ["p1", "p2", "p3", "p5"]


def test_one_patient_in_both_grades_is_refused(tmp_path):
    kinds = ("t1", "t2", "flair", "t1ce", "seg")
    root = touch(brats(tmp_path / "brats"), *(f"HGG/p0/p0_{kind}.nii.gz" for kind in kinds))
    with pytest.raises(UserError, match="expected each case once, p0 is .*HGG.* and .*LGG"):
        open_brats(root, tmp_path / "lists")
