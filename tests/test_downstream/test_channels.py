"""Cases of several channels, each a file: fine-tuned in nnU-Net's layout, and predicted in all of BraTS's."""

import csv
import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import nn

from data.datasets.brats import BRATS_SUFFIXES, brats_regions
from data.preprocess import PRETRAINED, Preprocessing, preprocess
from downstream import predict
from downstream.old_weights import tuned_of
from downstream.tuned import TunedNetwork, read_tuned
from tests.programs import run
from utils.checkpoints import RECORD, save_checkpoint
from utils.errors import UserError
from utils.options import SEGMENTATION, parse_options

REGIONS = brats_regions(3)
BRATS = TunedNetwork(
    SEGMENTATION, "brats", ("WT", "TC", "ET"), Preprocessing(3, (16, 16, 8), "minmax", whole=True),
    mask_values=tuple(region.mask_value for region in REGIONS), channels=4, suffixes=BRATS_SUFFIXES, norm="gn",
)  # fmt: skip
SHAPE = (9, 20, 24)  # z y x


class RegionOfEachChannel(nn.Module):
    """A network that needs no training: the first three channels, t1, t2 and flair, show one region each."""

    def forward(self, x):
        assert x.shape[1] == 4
        return (x[:, :3] - 0.5) * 50


def nested(seed):
    """The three regions, each within the one before, bool 3 z y x."""
    found = np.zeros((3, *SHAPE), bool)
    found[0, 2:7, 3:15, 4 + seed : 20], found[1, 3:6, 5:12, 8:16], found[2, 4, 6:10, 9:13] = True, True, True
    return found


def save(path, values, orientation="LPS"):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((0.5, 2.0, 3.0))
    image.SetOrigin((-7.0, 11.0, 5.0))
    sitk.WriteImage(sitk.DICOMOrient(image, orientation), str(path))


def save_patient(folder, seed, suffixes, ending, orientations=("LPS",) * 4):
    rng = np.random.default_rng(seed)
    channels = [*nested(seed), rng.random(SHAPE) < 0.5]
    for suffix, shown, orientation in zip(suffixes, channels, orientations, strict=True):
        values = (shown * 100 + rng.integers(0, 20, SHAPE)).astype(np.int16)
        save(folder / f"{folder.name}{suffix}{ending}", values, orientation)


def table(path):
    with open(path, newline="") as file:
        return {row.pop("name"): row for row in csv.DictReader(file)}


def test_patients_of_every_layout_and_not_those_that_lack_a_channel(tmp_path, monkeypatch, capsys):
    root, out = tmp_path / "patients", tmp_path / "out"
    save_patient(root / "HGG" / "Brats18_A_1", 0, ("_t1", "_t2", "_flair", "_t1ce"), ".nii.gz")
    save(root / "HGG" / "Brats18_A_1" / "Brats18_A_1_seg.nii.gz", nested(0).sum(axis=0).astype(np.uint8))
    orientations = ("RAS", "LPS", "ASR", "LPS")
    save_patient(root / "BraTS-GLI-00001-000", 1, ("-t1n", "-t2w", "-t2f", "-t1c"), ".nii.gz", orientations)
    save_patient(root / "BraTS20_Training_002", 2, ("_t1", "_t2", "_flair", "_t1ce"), ".nii")
    (root / "BraTS20_Training_002" / "BraTS20_Training_002_flair.nii").unlink()
    save_checkpoint(tmp_path / "best.pt", {"state_dict": {"x": torch.zeros(1)}, RECORD: BRATS.as_record()})
    monkeypatch.setattr(predict, "load_tuned", lambda network, weights: RegionOfEachChannel())
    typed = ["--phase", "predict", "--weight", tmp_path / "best.pt", "--data", root, "--output", out, "--workers", 0]
    status, error = run(monkeypatch, capsys, *typed)
    assert status == 1 and "--max_bad: 1 of 3" in error and "no file" in error and "002_flair.nii" in error, error
    status, error = run(monkeypatch, capsys, *typed, "--max_bad", 0.4)
    assert not status and "left out: " in error, error
    about = json.loads((out / "run.json").read_text())
    assert list(about["left_out"]["broken"]) == ["BraTS20_Training_002"]
    found = table(out / "predictions.csv")
    assert sorted(found) == ["BraTS-GLI-00001-000", "HGG/Brats18_A_1"]
    for name, row in found.items():
        seed = int("GLI" in name)
        flat, regions = name.replace("/", "_"), nested(seed)
        expected = np.zeros(SHAPE, np.uint8)
        for region, value in zip(regions, (2, 1, 3), strict=True):
            expected[region] = value
        mask = sitk.ReadImage(out / "masks" / f"{flat}.nii.gz")
        first = sitk.ReadImage(str(next((root / name).glob("*_t1.nii*" if seed == 0 else "*-t1n.nii*"))))
        for one, other in ((mask.GetDirection(), first.GetDirection()), (mask.GetOrigin(), first.GetOrigin())):
            np.testing.assert_allclose(one, other, atol=1e-5)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.DICOMOrient(mask, "LPS")), expected)
        ml = [float(row[f"ml_{region}"]) for region in ("WT", "TC", "ET")]
        np.testing.assert_allclose(ml, regions.sum(axis=(1, 2, 3)) * 0.003, atol=1e-6)
        assert (out / "overlays" / f"{flat}.png").stat().st_size > 100
    (out / "masks" / "HGG_Brats18_A_1.nii.gz").unlink()
    status, error = run(monkeypatch, capsys, *typed, "--max_bad", 0.4)
    assert not status and "2 of 3 are finished already" in error, error
    assert not (out / "masks" / "HGG_Brats18_A_1.nii.gz").exists() and table(out / "predictions.csv") == found


@pytest.fixture
def dataset(tmp_path):
    """Five cases of two channels, whose two regions overlap, and two without labels."""
    root = tmp_path / "Dataset001"
    content = {
        "channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "whole": [1, 5], "core": 5},
        "regions_class_order": [1, 5], "numTraining": 5, "file_ending": ".mha",
    }  # fmt: skip
    for i in range(7):
        whole, core, _ = nested(0)
        for channel, region in enumerate((whole, core)):
            values = (region * 100 + np.random.default_rng(i).integers(0, 20, SHAPE)).astype(np.int16)
            save(root / ("imagesTr" if i < 5 else "imagesTs") / f"c_{i}_{channel:04}.mha", values)
        if i < 5:
            save(root / "labelsTr" / f"c_{i}.mha", np.where(core, 5, whole).astype(np.uint8))
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def test_nnunets_layout_from_its_description_to_masks_of_its_test_images(dataset, tmp_path, monkeypatch, capsys):
    tuned = tmp_path / "tuned"
    status, error = run(
        monkeypatch, capsys, "--phase", "finetune", "--n", "folder", "--d", 3, "--data", dataset, "--output", tuned,
        "--weight", "none", "--ratio", 0, "--b", 2, "--workers", 0, "--epochs", 0, "--crop", 24, 24, 16, "--save_masks",
    )  # fmt: skip
    assert not status and "not imagesTs" in error, error
    network = read_tuned(tuned / "best.pt")
    assert (network.outputs, network.mask_values, network.exclusive) == (("whole", "core"), (1, 5), False)
    assert (network.channels, network.suffixes) == (2, (("_0000",), ("_0001",)))
    assert json.loads((tuned / "results.json").read_text())["dice"].keys() == {"whole", "core"}
    (tested,) = table(tuned / "predictions.csv")
    for part, names in (("imagesTr", [f"c_{i}" for i in range(5)]), ("imagesTs", ["c_5", "c_6"])):
        status, error = run(
            monkeypatch, capsys, "--phase", "predict", "--weight", tuned / "best.pt", "--data", dataset / part,
            "--output", tmp_path / part, "--workers", 0,
        )  # fmt: skip
        assert not status, error
        assert sorted(table(tmp_path / part / "predictions.csv")) == names
        assert sorted(path.name for path in (tmp_path / part / "masks").iterdir()) == [f"{n}.nii.gz" for n in names]
    again, before = (sitk.ReadImage(folder / "masks" / f"{tested}.nii.gz") for folder in (tmp_path / "imagesTr", tuned))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(again), sitk.GetArrayFromImage(before))
    assert again.GetSpacing() == pytest.approx((0.5, 2, 3)) and again.GetOrigin() == pytest.approx((-7, 11, 5))


def test_weights_from_before_channels_were_recorded(tmp_path):
    weights = tmp_path / "best.pt"
    record = BRATS.as_record()
    record.pop("suffixes")
    save_checkpoint(weights, {"state_dict": {"x": torch.zeros(1)}, RECORD: record})
    assert read_tuned(weights) == BRATS
    save_checkpoint(weights, {"state_dict": {"x": torch.zeros(1)}, RECORD: record | {"channels": 1}})
    assert read_tuned(weights).suffixes == ()
    save_checkpoint(weights, {"state_dict": {"x": torch.zeros(1)}})
    typed = ["--phase", "predict", "--weight", str(weights), "--data", "D", "--output", "O", "--n", "brats"]
    network = tuned_of(parse_options(typed))
    assert (network.outputs, network.mask_values, network.norm) == (("WT", "TC", "ET"), (2, 1, 4), "gn")
    assert (network.channels, network.suffixes, network.exclusive) == (4, BRATS_SUFFIXES, False)
    assert tuned_of(parse_options([*typed, "--norm", "bn"])).norm == "bn"


def test_the_channels_of_a_case_become_one_input(tmp_path):
    suffixes = ("_t1", "_t2", "_flair", "_t1ce")
    for name, orientations in (("a", ("LPS",) * 4), ("b", ("LPS", "RAS", "ASR", "LPI"))):
        save_patient(tmp_path / name, 0, suffixes, ".nii.gz", orientations)
    alike, turned = ([str(tmp_path / name / f"{name}{suffix}.nii.gz") for suffix in suffixes] for name in "ab")
    windows = preprocess(alike, BRATS.reading)
    assert windows.shape == (2 * 2 * 2, 4, 16, 16, 8)
    torch.testing.assert_close(preprocess(turned, BRATS.reading), windows)
    for i, path in enumerate(alike):
        torch.testing.assert_close(preprocess(path, BRATS.reading), windows[:, i : i + 1])
    with pytest.raises(UserError, match="a_t1.nii.gz: expected one file, got 4"):
        preprocess(alike, PRETRAINED[3])
    with pytest.raises(UserError, match="got an empty list"):
        preprocess([], BRATS.reading)


def test_masks_of_one_channel_are_named_by_case_too(tmp_path):
    for name in ("imagesTs/x_0000.nii.gz", "other.nii.gz"):
        save(tmp_path / name, np.zeros(SHAPE, np.int16))
    files, channels = predict.find_channels(
        str(tmp_path), BRATS._replace(channels=1, suffixes=(("_0000",),)), verbose=False
    )
    assert files.names == ["imagesTs/x", "other"]
    assert channels == [(tmp_path / "imagesTs" / "x_0000.nii.gz",), (tmp_path / "other.nii.gz",)]
