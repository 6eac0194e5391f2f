"""luna_preprocess.py on volumes that are not LUNA16's: formats, DICOM, intensities, spacings, tissue and masks."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

import luna_preprocess
from data.readers.volumes import INTENSITIES, VolumeSpec, load_resampled
from tests.dicom_slices import UID, write_series
from tests.scans import lung, write_scan
from utils.errors import UserError

SMALL = ["--input_rows", "16", "--input_cols", "24", "--input_deps", "8", "--scale", "2", "--workers", "1"]
SPACING, ORIGIN = (1.375, 1.25, 1.125), (-80.5, 12.25, 3.0)
LUNG = lung().clip(-1000, 1000)
# A body: nothing below -150 HU but its background.
BODY = np.clip(np.random.default_rng(1).normal(60, 30, size=(60, 110, 100)), 0, None).astype(np.int16)


def preprocess(data, save, *options):
    """The exit status; UserError where the program would end with one line."""
    return luna_preprocess.main(["--data", str(data), "--save", str(save), *SMALL, *map(str, options)])


def crops_in(save):
    return {path.relative_to(save).as_posix(): np.load(path) for path in sorted(save.rglob("*.npy"))}


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def records_in(save):
    return {record["scan"]: record for record in json.loads((save / "manifest.json").read_text())["records"]}


def write_image(path, volume, direction=None):
    image = sitk.GetImageFromArray(volume)
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.DICOMOrient(image, direction) if direction else image, str(path))


@pytest.mark.parametrize("intensity", INTENSITIES)
def test_a_dicom_series_and_the_same_volume_in_any_file_and_orientation_give_the_same_crops(tmp_path, intensity):
    write_series(tmp_path / "dicom" / "P1" / "CT", LUNG, spacing=SPACING, origin=ORIGIN)
    assert preprocess(tmp_path / "dicom", tmp_path / "a", "--intensity", intensity) == 0
    expected = crops_in(tmp_path / "a")
    assert set(expected) == {f"P1/CT/{UID}_{kind}_{i}.npy" for kind in ("global", "local") for i in range(2)}
    assert 0 <= min(crop.min() for crop in expected.values()) < max(crop.max() for crop in expected.values()) <= 1
    for ending, direction in ((".nii.gz", "RAS"), (".mha", "LAS"), (".nrrd", "PIR")):
        folder = tmp_path / ending
        write_image(folder / "P1" / "CT" / f"{UID}{ending}", LUNG, direction)
        assert preprocess(folder, tmp_path / f"of{ending}", "--intensity", intensity) == 0
        assert same(crops_in(tmp_path / f"of{ending}"), expected), ending


def test_finished_series_are_skipped_and_changed_ones_are_not(tmp_path, capsys):
    data, save = tmp_path / "data", tmp_path / "save"
    write_series(data, LUNG, spacing=SPACING)
    write_series(data / "more", LUNG[::-1], spacing=SPACING, uid="1.2.3")
    assert preprocess(data, save, "--scale", 1) == 0
    assert set(records_in(save)) == {UID, "more/1.2.3"}
    capsys.readouterr()
    assert preprocess(data, save, "--scale", 1) == 0 and "2 of 2 scans are finished already" in capsys.readouterr().err
    changed = sorted((data / "more").iterdir())[5]
    changed.write_bytes(changed.read_bytes())
    preprocess(data, save, "--scale", 1)
    assert "1 of 2 scans changed since their crops were made (more/1.2.3)" in capsys.readouterr().err
    # A series with a gap is a scan that failed, by its name.
    changed.unlink()
    preprocess(data, save, "--scale", 1, "--max_bad", 0.5)
    error = capsys.readouterr().err
    assert f"failed: {data}/more: series 1.2.3: expected even distances" in error
    assert f"{save} also has crops of 1 scans that are not in --data (more/1.2.3)" in error


def test_spacing_is_that_of_the_voxels(tmp_path):
    write_image(tmp_path / "data" / "a.nii.gz", lung((60, 160, 150)))
    assert preprocess(tmp_path / "data", tmp_path / "one") == 0
    assert preprocess(tmp_path / "data", tmp_path / "two", "--spacing", 0.75) == 0
    one, two = (records_in(tmp_path / save)["a"] for save in ("one", "two"))
    assert one["voxels"] == [206, 200, 68] and two["voxels"] == [275, 267, 90]
    assert "spacing" not in one["settings"] and two["settings"]["spacing"] == 0.75
    assert not same(crops_in(tmp_path / "one"), crops_in(tmp_path / "two"))


def test_minmax_and_percentiles_scale_each_volume(tmp_path):
    volume = lung().astype(np.float32) * 0.37 + 1000  # no HU
    volume[0, 0, :9] = 1e6  # a few bright voxels
    write_image(tmp_path / "data" / "a.nii.gz", volume)
    path = tmp_path / "data" / "a.nii.gz"
    wide, robust = (load_resampled(path, spec=VolumeSpec(intensity)) for intensity in ("minmax", "percentiles"))
    assert np.percentile(wide, 99) < -990 and np.percentile(robust, 99) > 500
    assert robust.min() == wide.min() == -1000 and 998 <= robust.max() <= 1000
    with pytest.raises(UserError, match="expected a volume of different values, all are 7"):
        write_image(tmp_path / "flat.mha", np.full((3, 4, 5), 7, np.int16))
        load_resampled(tmp_path / "flat.mha", spec=VolumeSpec("percentiles"))
    assert preprocess(tmp_path / "data", tmp_path / "ct") == 1, "it has no air and no fat"
    assert preprocess(tmp_path / "data", tmp_path / "mri", "--intensity", "percentiles") == 0
    assert min(crop.mean() for crop in crops_in(tmp_path / "mri").values()) > 0.05


def test_tissue_is_for_ct_and_may_be_any(tmp_path, capsys):
    body = BODY.copy()
    body[:, :3] = -1000
    write_image(tmp_path / "data" / "a.nii.gz", body)
    assert preprocess(tmp_path / "data", tmp_path / "lungs") == 1
    assert "give --tissue more than 0.15, or none" in capsys.readouterr().err
    assert preprocess(tmp_path / "data", tmp_path / "half", "--tissue", 0.999) == 0
    assert preprocess(tmp_path / "data", tmp_path / "any", "--tissue", "none") == 0
    assert records_in(tmp_path / "any")["a"]["settings"]["tissue"] is None
    assert len(crops_in(tmp_path / "any")) == 4
    for options, message in (
        (["--tissue", "0.2", "--intensity", "minmax"], "--tissue is a share of HU, for --intensity ct"),
        (["--tissue", "some"], "--tissue: expected a number, got 'some'"),
        (["--volumes", "--dtype", "float16"], "--dtype is for crops"),
        (["--spacing", "0"], "--spacing: expected a number from 0.05 to 20"),
    ):
        with pytest.raises(SystemExit) as caught:
            preprocess(tmp_path / "data", tmp_path / "x", *options)
        assert caught.value.code == 2 and message in capsys.readouterr().err


def test_empty_background_gives_no_crop_of_one_value(tmp_path):
    head = np.zeros((60, 160, 150), np.int16)
    head[10:50, 60:68, 60:68] = BODY[:40, :8, :8]
    write_image(tmp_path / "data" / "a.nii.gz", head)
    small = ("--crop_rows", 16, "--crop_cols", 16)
    assert preprocess(tmp_path / "data", tmp_path / "save", "--intensity", "minmax", "--scale", 20, *small) == 0
    pairs = [crop for name, crop in crops_in(tmp_path / "save").items() if "global" in name]
    assert len(pairs) == 20 and all(crop.max() - crop.min() > 1e-4 for pair in pairs for crop in pair)


def test_masks_are_no_scans_unless_the_patterns_say_so(tmp_path, capsys):
    write_image(tmp_path / "data" / "HGG" / "p1" / "p1_t1.nii.gz", lung())
    write_image(tmp_path / "data" / "HGG" / "p1" / "p1_seg.nii.gz", lung())
    assert preprocess(tmp_path / "data", tmp_path / "save", "--scale", 1) == 0
    assert set(records_in(tmp_path / "save")) == {"HGG/p1/p1_t1"}
    assert "1 other volumes are left out (HGG/p1/p1_seg.nii.gz)" in capsys.readouterr().err
    assert preprocess(tmp_path / "data", tmp_path / "both", "--scale", 1, "--exclude") == 0
    assert set(records_in(tmp_path / "both")) == {"HGG/p1/p1_t1", "HGG/p1/p1_seg"}


def test_own_metaimages_are_brought_to_one_orientation_and_luna16s_are_not(tmp_path):
    flipped = {"TransformMatrix": "-1 0 0 0 -1 0 0 0 1"}
    for folder in ("own", "luna/subset0"):
        (tmp_path / folder).mkdir(parents=True)
        write_scan(tmp_path / folder / "a.mhd", lung(), spacing=SPACING, **flipped)
    assert preprocess(tmp_path / "own", tmp_path / "own_crops") == 0
    assert preprocess(tmp_path / "luna", tmp_path / "luna_crops") == 0
    (own, luna) = (crops_in(tmp_path / name) for name in ("own_crops", "luna_crops"))
    assert not np.array_equal(own["a_global_0.npy"], luna["subset0/a_global_0.npy"])
    assert preprocess(tmp_path / "luna" / "subset0", tmp_path / "one_subset") == 0
    assert np.array_equal(crops_in(tmp_path / "one_subset")["a_global_0.npy"], luna["subset0/a_global_0.npy"])
    write_scan(tmp_path / "own" / "a.mhd", lung()[:, ::-1, ::-1], spacing=SPACING)
    assert preprocess(tmp_path / "own", tmp_path / "turned") == 0
    assert same(crops_in(tmp_path / "turned"), own)


def test_boxes_keep_the_border_of_chests_and_none_in_other_volumes(tmp_path):
    """A mark outside of the published border is seen only where the border is smaller."""
    marked = lung((60, 220, 220))
    marked[:, :56, :50] = 1000
    write_image(tmp_path / "data" / "a.nii.gz", marked)
    seen = {}
    for name, options in {
        "chest": ["--intensity", "ct"], "near": ["--border", 0, 0, 0], "mri": ["--intensity", "minmax"],
        "far": ["--intensity", "minmax", "--border", 70, 70, 15],
    }.items():  # fmt: skip
        assert preprocess(tmp_path / "data", tmp_path / name, "--scale", 12, *options) == 0
        pairs = [crop for file, crop in crops_in(tmp_path / name).items() if "global" in file]
        seen[name] = max(crop[:, :, :, :2].max() for crop in pairs) > 0.9
    assert seen == {"chest": False, "near": True, "mri": True, "far": False}
    assert "border" not in records_in(tmp_path / "chest")["a"]["settings"]
    assert records_in(tmp_path / "near")["a"]["settings"]["border"] == [0, 0, 0]
