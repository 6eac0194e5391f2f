"""nnU-Net's layout: dataset.json of both versions, regions, channels, tables beside."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from data.catalog.list_folders import ListFolders
from data.datasets.cases import read_case
from data.datasets.nnunet import find_nnunet
from data.datasets.nnunet_json import read_description
from data.datasets.segmentation import WholeCases, open_segmentation
from utils.errors import UsageError, UserError

V1 = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver", "2": "cancer"}, "numTraining": 3}
V2 = {"channel_names": {"1": "ADC", "0": "T2"}, "labels": {"background": 0, "TZ": 2, "PZ": 1}, "file_ending": ".nrrd"}
REGIONS = {
    "channel_names": {"0": "T1", "1": "T2"}, "file_ending": ".nii.gz", "regions_class_order": [1, 2, 3],
    "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3},
}  # fmt: skip


def describe(root, content):
    root.mkdir(exist_ok=True)
    (root / "dataset.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return root / "dataset.json"


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_both_versions_and_regions_are_understood(tmp_path):
    channels, regions, exclusive, ending, cases = read_description(describe(tmp_path, V1))
    assert (channels, exclusive, ending, cases) == (("CT",), True, ".nii.gz", 3)
    assert regions == (("liver", (1,), 1), ("cancer", (2,), 2))
    channels, regions, exclusive, ending, cases = read_description(describe(tmp_path, V2))
    assert (channels, exclusive, ending, cases) == (("T2", "ADC"), True, ".nrrd", None)
    assert regions == (("TZ", (2,), 2), ("PZ", (1,), 1))
    _, regions, exclusive, _, _ = read_description(describe(tmp_path, REGIONS))
    assert not exclusive and regions == (("whole", (1, 2, 3), 1), ("core", (2, 3), 2), ("enhancing", (3,), 3))
    _, regions, _, _, _ = read_description(describe(tmp_path, REGIONS | {"regions_class_order": [3, 1, 2]}))
    assert [region.mask_value for region in regions] == [3, 1, 2]


BROKEN = [
    ("[", "expected nnU-Net's description of a data set in JSON"),
    ("[1]", "expected names and values in {}, got [1]"),
    ({"labels": V1["labels"]}, 'expected channel_names such as {"0": "CT"}, numbered from 0, got null'),
    (V1 | {"modality": {"1": "CT"}}, 'numbered from 0, got {"1": "CT"}'),
    (V1 | {"labels": {"0": "background"}}, 'expected labels from 1 to 255, got "none"'),
    (V1 | {"labels": {}}, "each once, got {}"),
    (V1 | {"labels": {"1": "a", "2": "a"}}, 'each once, got {"1": "a", "2": "a"}'),
    (V1 | {"labels": {"a": 1.5}}, 'each once, got {"a": 1.5}'),
    (V1 | {"labels": {"a": []}}, 'each once, got {"a": []}'),
    (V1 | {"labels": {"a": 1, "b": 300}}, 'expected labels from 1 to 255, got {"b": [300]}'),
    (V1 | {"labels": {"a": [0, 1]}, "regions_class_order": [1]}, 'from 1 to 255, got {"a": [0, 1]}'),
    (V1 | {"labels": {"a": 1, "b": 1}}, "expected one name of each label, 1 has several"),
    (V1 | {"labels": {"background": 0, "a": 1, "ignore": 2}}, "some are 'ignore' (2)"),
    (REGIONS | {"regions_class_order": [1, 2]}, "the value of each of 3 regions in written masks, got [1, 2]"),
    ({k: v for k, v in REGIONS.items() if k != "regions_class_order"}, "of 3 regions in written masks, got null"),
]


@pytest.mark.parametrize(("content", "message"), BROKEN)
def test_what_cannot_be_meant_is_one_line(tmp_path, content, message):
    path = describe(tmp_path, content)
    with pytest.raises(UserError) as caught:
        read_description(path)
    assert str(caught.value).startswith(f"{path}: expected ") and message in str(caught.value)


def make(root, content=REGIONS, count=4, channels=2, ending=".nii.gz"):
    describe(root, content)
    for i in range(count):
        touch(root, *(f"imagesTr/case_{i}_{c:04}{ending}" for c in range(channels)), f"labelsTr/case_{i}{ending}")
    return root


def test_files_are_joined_and_what_is_not_used_is_told(tmp_path, capsys):
    root = make(tmp_path / "Dataset001")
    touch(root, "imagesTs/case_9_0000.nii.gz", "labelsTr/case_8.nii.gz", "imagesTr/readme.txt")
    describe(root, REGIONS | {"numTraining": 5})
    layout = find_nnunet(root, 3)
    assert [case.name for case in layout.cases] == [case.patient for case in layout.cases]
    assert [path.name for path in layout.cases[2].images] == ["case_2_0000.nii.gz", "case_2_0001.nii.gz"]
    assert layout.cases[2].mask == root / "labelsTr" / "case_2.nii.gz"
    assert (layout.channels, layout.suffixes, layout.exclusive) == (2, (("_0000",), ("_0001",)), False)
    assert layout.reading.known == (0, 1, 2, 3) and not layout.reading.hounsfield
    assert capsys.readouterr().err == (
        f"{root}/imagesTr: 1 other files are left out (readme.txt)\n"
        f"{root}: 4 of 4 cases with a mask; 4 of 5 masks with images, 1 without: not used (case_8.nii.gz)\n"
        f"--data: of {root} are read imagesTr, labelsTr, not imagesTs\n"
        f"{root}/dataset.json: numTraining is 5, 4 cases are in imagesTr\n"
    )
    (root / "patients.csv").write_text("file,patient\ncase_0.nii.gz,a\ncase_1,a\ncase_2,b\n")
    (root / "test.txt").write_text("case_3\n")
    layout = find_nnunet(root, 3)
    assert [case.patient for case in layout.cases] == ["a", "a", "b", "case_3"] and layout.test == ["case_3"]


def test_missing_and_surplus_files_are_refused_by_name(tmp_path):
    root = make(tmp_path)
    (root / "imagesTr" / "case_1_0000.nii.gz").unlink()
    (root / "labelsTr" / "case_1.nii.gz").unlink()
    (root / "labelsTr" / "case_3.nii.gz").unlink()
    with pytest.raises(UserError, match=r"2 of 4 cases in .* \(case_1: _0000, its mask, case_3: its mask\)"):
        find_nnunet(root, 3)
    touch(root, "imagesTr/case_1_0002.nii.gz")
    with pytest.raises(UserError, match=r"expected 2 channels in dataset.json, numbered from 0000, got .*case_1_0002"):
        find_nnunet(root, 3)
    for content, dim, message in (
        (REGIONS | {"file_ending": ".gipl"}, 3, "expected with --d 3 a file_ending of .mhd, .*, got .gipl"),
        (REGIONS, 2, "expected with --d 2 a file_ending of .png, got .nii.gz"),
        (REGIONS | {"file_ending": ".png"}, 2, "expected with --d 2 one channel, a grey image, got 2"),
        (REGIONS | {"file_ending": ".mha"}, 3, "expected CASE_0000.mha in .*imagesTr, found none"),
    ):
        describe(root, content)
        with pytest.raises(UserError, match=message):
            find_nnunet(root, dim)


def test_channels_named_ct_are_read_in_hounsfield_units(tmp_path):
    root = make(tmp_path, V1, channels=1)
    assert find_nnunet(root, 3).reading.hounsfield
    assert not find_nnunet(root, 3, hounsfield=False).reading.hounsfield
    describe(root, V1 | {"modality": {"0": "T1"}})
    assert find_nnunet(root, 3, hounsfield=True).reading.hounsfield and not find_nnunet(root, 3).reading.hounsfield
    make(root, V1 | {"modality": {"0": "ct", "1": "PET"}})
    with pytest.raises(UserError, match="expected CT in all channels or in none, got ct, PET; give --intensity minmax"):
        find_nnunet(root, 3)
    assert find_nnunet(root, 3, hounsfield=False).channels == 2


def open_own(root, dim, **options):
    return open_segmentation(
        name="folder", root=root, lists=ListFolders.at(root / "none"), ratio=0, seed=0, dim=dim, crop=(8,) * dim,
        **options,
    )  # fmt: skip


def test_volumes_become_channels_and_overlapping_regions(tmp_path):
    root, label = make(tmp_path), np.zeros((5, 6, 7), np.uint8)
    label[1:4, 1:5, 1:6], label[2, 1:5, 2:5], label[2, 2:4, 3] = 1, 2, 3
    for i in range(4):
        for channel in range(2):
            image = sitk.GetImageFromArray((label * 10 + 100 * channel + i).astype(np.int16))
            sitk.WriteImage(image, str(root / "imagesTr" / f"case_{i}_{channel:04}.nii.gz"))
        sitk.WriteImage(sitk.GetImageFromArray(label), str(root / "labelsTr" / f"case_{i}.nii.gz"))
    splits = open_own(root, 3)
    assert sum(map(len, splits[:3])) == 4
    image, masks = WholeCases(splits.train.cases, splits.layout)[0][:2]
    assert image.shape == (2, 7, 6, 5) and [int(mask.sum()) for mask in masks] == [60, 12, 2]
    low = read_case(splits.train.cases[0], splits.layout.reading)[0].low
    assert low[1] - low[0] == 100
    with pytest.raises(UsageError, match="--classes: .*dataset.json says what the masks hold"):
        open_own(root, 3, classes=2)


def test_images_in_png(tmp_path):
    content = {"channel_names": {"0": "grey"}, "labels": {"background": 0, "road": 1}, "file_ending": ".png"}
    root = make(tmp_path, content, channels=1, ending=".png")
    for i in range(4):
        mask = np.zeros((9, 12), np.uint8)
        mask[2:5, 3:9] = 1
        Image.fromarray(mask * 90 + 10).save(root / "imagesTr" / f"case_{i}_0000.png")
        Image.fromarray(mask).save(root / "labelsTr" / f"case_{i}.png")
    splits = open_own(root, 2)
    image, masks = WholeCases(splits.train.cases, splits.layout)[0][:2]
    assert image.shape == (1, 9, 12) and int(masks.sum()) == 18 and [r.name for r in splits.layout.regions] == ["road"]
