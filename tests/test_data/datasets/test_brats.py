"""The layouts of BraTS from 2018 to 2023: channels, patients, values of masks."""

import numpy as np
import pytest
import SimpleITK as sitk

from data.catalog.list_folders import ListFolders
from data.catalog.scans import MASKS, find_scans
from data.datasets.brats import MODALITIES, find_brats
from data.datasets.cases import read_case
from data.datasets.segmentation import WholeCases, open_segmentation
from utils.errors import UserError

CLASSIC = dict(zip((*MODALITIES, "seg"), ("_t1", "_t2", "_flair", "_t1ce", "_seg"), strict=True))
OF_2023 = dict(zip((*MODALITIES, "seg"), ("-t1n", "-t2w", "-t2f", "-t1c", "-seg"), strict=True))
# Folder of a case, naming of its files, their ending, and the value of enhancing tumour.
LAYOUTS = {
    "2018": ("{grade}/Brats18_CBICA_A{i}_1", CLASSIC, ".nii.gz", 4),
    "2019": ("MICCAI_BraTS_2019_Data_Training/{grade}/BraTS19_TCIA_{i}_1", CLASSIC, ".nii.gz", 4),
    "2020": ("MICCAI_BraTS2020_TrainingData/BraTS20_Training_35{i}", CLASSIC, ".nii", 4),
    "2021": ("BraTS2021_0000{i}", CLASSIC, ".nii.gz", 4),
    "2023": ("ASNR-MICCAI-BraTS2023-GLI/BraTS-GLI-0000{i}-000", OF_2023, ".nii.gz", 3),
}


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def case_files(folder, naming, ending, kinds=(*MODALITIES, "seg")):
    return [f"{folder}/{folder.rpartition('/')[2]}{naming[kind]}{ending}" for kind in kinds]


def make(root, layout, count=7):
    pattern, naming, ending, _ = LAYOUTS[layout]
    for i in range(count):
        touch(root, *case_files(pattern.format(grade=("HGG", "LGG")[i % 2], i=i), naming, ending))
    return root


@pytest.mark.parametrize("year", LAYOUTS)
def test_every_year_has_the_same_channels_and_regions(tmp_path, year):
    pattern, naming, ending, enhancing = LAYOUTS[year]
    layout = find_brats(make(tmp_path, year))
    names = {pattern.format(grade="", i=i).rpartition("/")[2] for i in range(7)}
    assert {case.name for case in layout.cases} == names and len(layout.cases) == 7
    for case in layout.cases:
        endings = [path.name.removeprefix(case.name) for path in (*case.images, case.mask)]
        assert endings == [naming[kind] + ending for kind in ("t1", "t2", "flair", "t1ce", "seg")]
        assert all(path.is_file() for path in case.images)
    assert {region.name: region.labels for region in layout.regions} == {
        "WT": (1, 2, enhancing), "TC": (1, enhancing), "ET": (enhancing,)
    }  # fmt: skip
    assert [region.mask_value for region in layout.regions] == [2, 1, enhancing]
    assert layout.reading.known == (0, 1, 2, enhancing) and (layout.channels, layout.norm) == (4, "gn")


def test_the_one_misnamed_mask_of_2020_is_known_and_does_not_pretrain(tmp_path):
    root = make(tmp_path, "2020")
    folder = root / "MICCAI_BraTS2020_TrainingData" / "BraTS20_Training_355"
    (folder / "BraTS20_Training_355_seg.nii").rename(folder / "W39_1998.09.19_Segm.nii")
    (case,) = (case for case in find_brats(root).cases if case.name == folder.name)
    assert case.mask == folder / "W39_1998.09.19_Segm.nii"
    scans = find_scans(root, exclude=MASKS, verbose=False).scans
    assert len(scans) == 7 * 4 and not any("seg" in scan.name.lower() for scan in scans)
    other = folder.with_name("BraTS20_Training_354")
    (other / "BraTS20_Training_354_seg.nii").rename(other / "W39_1998.09.19_Segm.nii")
    with pytest.raises(UserError, match=r"1 of 7 patients .* lack files \(BraTS20_Training_354: seg\)"):
        find_brats(root)


def test_folders_without_any_mask_are_told_and_not_used(tmp_path, capsys):
    kinds = MODALITIES
    root = make(tmp_path, "2020")
    touch(root, *case_files("MICCAI_BraTS2020_ValidationData/BraTS20_Validation_001", CLASSIC, ".nii", kinds))
    layout = find_brats(root)
    assert len(layout.cases) == 7 and layout.unmasked == ["BraTS20_Validation_001"]
    assert capsys.readouterr().err == (
        f"{root}: 1 of 8 patients are in folders without any mask: not used (BraTS20_Validation_001)\n"
    )
    # Lists of pre-training have them; what they leave to fine-tuning does not.
    lists = touch(tmp_path / "lists", "brats_train.txt")
    names = [case.name for case in layout.cases]
    (lists / "brats_train.txt").write_text("\n".join([*names[:4], "BraTS20_Validation_001", *names[4:]]))
    splits = open_segmentation(
        name="brats", root=root, lists=ListFolders.at(lists), ratio=0.375, seed=1, dim=3, crop=(8, 8, 8)
    )
    assert sorted(case.name for split in splits[:3] for case in split.cases) == names[3:]
    with pytest.raises(UserError, match="expected masks of BraTS in .*, none of 1 patients has one"):
        find_brats(root / "MICCAI_BraTS2020_ValidationData")


def test_years_with_other_values_are_not_mixed(tmp_path):
    root = make(make(tmp_path, "2021"), "2023")
    with pytest.raises(
        UserError, match=r"BraTS2021_00000 of 2018 to 2021 and BraTS-GLI-00000-000 of 2023, whose masks"
    ):
        find_brats(root)
    with pytest.raises(UserError, match=r"expected BraTS in .*: ID/ID_t1.nii.gz \(2018 to 2021\) or ID/ID-t1n.nii.gz"):
        find_brats(touch(tmp_path / "other", "x/y_t1.nii.gz"))


def write(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path))


def write_case(root, layout, i, label):
    pattern, naming, ending, _ = LAYOUTS[layout]
    for kind, path in zip(naming, case_files(pattern.format(grade="HGG", i=i), naming, ending), strict=True):
        write(root / path, label if kind == "seg" else (label + list(naming).index(kind) * 10).astype(np.int16))


@pytest.mark.parametrize("year", ["2021", "2023"])
def test_values_are_read_as_the_year_has_them_and_others_refused(tmp_path, year):
    enhancing = LAYOUTS[year][3]
    label = np.zeros((5, 6, 7), np.uint8)
    label[1:4, 1:5, 1:6], label[2, 1:5, 2:5], label[2, 2:4, 3] = 2, 1, enhancing
    write_case(tmp_path, year, 0, label)
    layout = find_brats(tmp_path)
    image, masks = WholeCases(layout.cases, layout)[0][:2]
    assert image.shape == (4, 7, 6, 5) and [int(m.sum()) for m in masks] == [60, 12, 2]
    (case,) = layout.cases
    low = read_case(case, layout.reading)[0].low
    assert low.tolist() == [0, 10, 20, 30]  # t1, t2, flair, t1ce
    # Of 2018 to 2021, 3 is nothing; in 2024, whose files are named as those of 2023, 4 is a resection cavity.
    write(case.mask, np.where(label == enhancing, 7 - enhancing, label))
    with pytest.raises(UserError, match=rf"{case.mask.name}: expected labels of .*, found \[{7 - enhancing}\]"):
        read_case(case, layout.reading)


def test_scans_of_one_patient_stay_together(tmp_path, capsys):
    root = make(tmp_path / "data", "2023")
    folder = "ASNR-MICCAI-BraTS2023-GLI/BraTS-GLI-0000{}-001"
    touch(root, *(name for i in (1, 3) for name in case_files(folder.format(i), OF_2023, ".nii.gz")))
    patients = {case.name: case.patient for case in find_brats(root).cases}
    assert patients["BraTS-GLI-00003-000"] == patients["BraTS-GLI-00003-001"] == "BraTS-GLI-00003"
    assert len(set(patients.values())) == 7
    lists = touch(tmp_path / "lists", "brats_train.txt")
    (lists / "brats_train.txt").write_text("\n".join(sorted(patients)))
    splits = open_segmentation(
        name="brats", root=root, lists=ListFolders.at(lists), ratio=0.23, seed=1, dim=3, crop=(8, 8, 8)
    )
    found = [{case.patient for case in split.cases} for split in splits[:3]]
    # The first two of nine names pre-trained: 0 and the first scan of 1.
    assert set().union(*found) == {f"BraTS-GLI-0000{i}" for i in range(2, 7)} and sum(map(len, found)) == 5
    assert "--ratio: 1 cases are of patients in the share that pre-trains: left out (BraTS-GLI-00001-001)\n" in (
        capsys.readouterr().err
    )
