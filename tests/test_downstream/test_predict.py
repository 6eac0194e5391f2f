"""Predictions and features of any files by weights that know how they saw images."""

import csv
import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image
from torch import nn

from data.catalog.names import NameList
from data.datasets.classification import LabelledFiles
from data.datasets.images import ImageFiles
from data.inputs import eval_cubes, eval_inputs
from data.preprocess import PRETRAINED, Preprocessing, cut_windows, preprocess, preprocessing_of
from data.readers.images import ImageSpec
from data.readers.volumes import load_resampled
from downstream import predict
from downstream.old_weights import tuned_of
from downstream.tuned import TunedNetwork, read_tuned
from evaluation.feature_map import of_length_one, principal_components
from evaluation.features import PooledFeatures
from models.encoders import build_encoder
from models.pretrained import load_encoder
from tests.dicom_files import dicom_bytes
from tests.dicom_slices import write_series
from tests.programs import run
from utils.checkpoints import RECORD, save_checkpoint
from utils.errors import UserError
from utils.options import CLASSIFICATION, SEGMENTATION, parse_options
from utils.records import LabelledCubes

SIDE = 64
X_RAY = Preprocessing(2, (SIDE, SIDE), "minmax", image_size=90, invert=True)
CLASSIFIER = TunedNetwork(CLASSIFICATION, "folder", ("sick", "old"), X_RAY, thresholds={"sick": 0.25})


def save_tuned(path, network):
    """Random weights of a network with its record; returns the network."""
    torch.manual_seed(3)
    model = network.build()
    save_checkpoint(path, {"state_dict": model.state_dict(), "epoch": 1, RECORD: network.as_record()})
    return model.eval()


@pytest.fixture
def x_rays(tmp_path):
    """A PNG, one in a subfolder, a DICOM file without an ending and a damaged file."""
    root = tmp_path / "own"
    (root / "b").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, shape in (("a.png", (70, 100)), ("b/a.png", (120, 80))):
        Image.fromarray(rng.integers(0, 200, shape).astype(np.uint8)).save(root / name)
    (root / "b" / "IM1").write_bytes(dicom_bytes(rng.integers(0, 4000, (75, 85)).astype(np.uint16), stored=12))
    (root / "broken.jpg").write_bytes(b"no image")
    return root


def table(path):
    with open(path, newline="") as file:
        return {row.pop("name"): row for row in csv.DictReader(file)}


def shown_in_fine_tuning(root, names, spec, side):
    """Inputs as the test split of fine-tuning has them."""
    images = ImageFiles([root], NameList.of(names), np.zeros(len(names), np.uint16), spec=spec)
    files = LabelledFiles(images, np.zeros((len(names), 1), np.float32), names, central=side)
    return eval_inputs(files.collate([files[i] for i in range(len(files))]))[0]


def test_probabilities_of_any_images_and_only_of_those_that_are_left(x_rays, tmp_path, monkeypatch, capsys):
    model = save_tuned(tmp_path / "best.pt", CLASSIFIER)
    typed = ["--phase", "predict", "--weight", tmp_path / "best.pt", "--data", x_rays, "--output", tmp_path / "out",
             "--workers", 0, "--b", 2]  # fmt: skip
    status, error = run(monkeypatch, capsys, *typed)
    assert status == 1 and "--max_bad: 1 of 4" in error
    status, error = run(monkeypatch, capsys, *typed, "--max_bad", 0.3)
    assert not status and "broken.jpg: expected" in error, error
    found = table(tmp_path / "out" / "predictions.csv")
    names = ["a.png", "b/IM1", "b/a.png"]
    assert sorted(found) == names
    inputs = shown_in_fine_tuning(x_rays, names, ImageSpec(90, "minmax", True), SIDE)
    with torch.no_grad():
        expected = model(inputs).sigmoid().numpy()
    got = [[float(found[name][output]) for output in CLASSIFIER.outputs] for name in names]
    np.testing.assert_allclose(got, expected, atol=2e-6)
    assert {(row["threshold_sick"], row["threshold_old"]) for row in found.values()} == {("0.25", "")}
    about = json.loads((tmp_path / "out" / "run.json").read_text())
    assert about["status"] == "finished" and list(about["left_out"]["broken"]) == ["broken.jpg"]

    # A line that a kill cut short is predicted again, the others are not.
    log = tmp_path / "out" / "finished" / "process_0.jsonl"
    lines = [line for line in log.read_text().splitlines() if line]
    assert len(lines) == 3
    changed = json.dumps([json.loads(lines[0])[0], [0.5, 0.125]])
    log.write_text("\n".join(["", changed, lines[1], lines[2][:-9]]))
    (x_rays / "broken.jpg").unlink()
    status, error = run(monkeypatch, capsys, *typed)
    assert not status and "2 of 3 are finished already" in error, error
    again = table(tmp_path / "out" / "predictions.csv")
    name = json.loads(lines[0])[0]
    assert (again[name]["sick"], again[name]["old"]) == ("0.5", "0.125")
    assert {n: row for n, row in again.items() if n != name} == {n: row for n, row in found.items() if n != name}

    save_tuned(tmp_path / "best.pt", CLASSIFIER._replace(thresholds={}))
    status, error = run(monkeypatch, capsys, *typed)
    assert status == 1 and "has another run, whose weights is" in error and "give another folder" in error
    status, error = run(monkeypatch, capsys, *typed, "--n", "folder", "--d", "2", "--labels", "sick")
    assert status == 2 and "has a record of how it was fine-tuned" in error


class Brightness(nn.Module):
    """A network of two regions that needs no training: voxels above 0.5, and of those the ones above 0.8."""

    def forward(self, x):
        x = x[:, :1]
        return torch.cat([(x - 0.5) * (x <= 0.8).float(), x - 0.8], dim=1) * 50


VOLUMES = TunedNetwork(
    SEGMENTATION, "folder", ("organ", "tumour"), Preprocessing(3, (16, 16, 8), "minmax", whole=True),
    mask_values=(1, 7), exclusive=True,
)  # fmt: skip


def test_masks_of_volumes_are_on_the_grid_of_each_file(tmp_path, monkeypatch, capsys):
    root, out = tmp_path / "own", tmp_path / "out"
    (root / "p1").mkdir(parents=True)
    hu = np.full((9, 20, 24), -1000, np.int16)
    hu[2:5, 3:15, 4:20], hu[3, 3:16, 4:21], hu[3:5, 6:9, 6:12] = 300, 300, 1000
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing((0.5, 2.0, 3.0))
    image.SetOrigin((-7.0, 11.0, 5.0))
    image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
    sitk.WriteImage(image, root / "p1" / "ct.nii.gz")
    write_series(root / "disc", hu)
    (root / "p1" / "broken.nii").write_bytes(b"\0" * 400)
    save_checkpoint(tmp_path / "best.pt", {"state_dict": {"x": torch.zeros(1)}, RECORD: VOLUMES.as_record()})
    monkeypatch.setattr(predict, "load_tuned", lambda network, weights: Brightness())
    status, error = run(
        monkeypatch, capsys, "--phase", "predict", "--weight", tmp_path / "best.pt", "--data", root, "--output", out,
        "--workers", 0, "--max_bad", 0.4,
    )  # fmt: skip
    assert not status and "left out" in error and "broken.nii" in error, error
    expected = np.zeros(hu.shape, np.uint8)
    expected[hu == 300], expected[hu == 1000] = 1, 7
    found, voxels = table(out / "predictions.csv"), [(expected == value).sum() for value in (1, 7)]
    assert len(found) == 2 and "p1/ct" in found
    for name, row in found.items():
        flat = name.replace("/", "_")
        mask = sitk.ReadImage(out / "masks" / f"{flat}.nii.gz")
        np.testing.assert_array_equal(sitk.GetArrayFromImage(mask), expected)
        spacing = mask.GetSpacing()
        ml = [count * np.prod(spacing) / 1000 for count in voxels]
        np.testing.assert_allclose([float(row["ml_organ"]), float(row["ml_tumour"])], ml, rtol=0, atol=1e-6)
        picture = np.array(Image.open(out / "overlays" / f"{flat}.png"))
        assert picture.shape == (20, 24, 3) and len(np.unique(picture.reshape(-1, 3), axis=0)) == 5
        if name == "p1/ct":
            np.testing.assert_allclose(spacing, (0.5, 2, 3), atol=1e-6)
            np.testing.assert_allclose(mask.GetOrigin(), (-7, 11, 5), atol=1e-6)
            np.testing.assert_allclose(mask.GetDirection(), (0, 1, 0, -1, 0, 0, 0, 0, 1), atol=1e-6)
        else:
            np.testing.assert_allclose(spacing, (0.75, 0.625, 2.5), atol=1e-6)
            np.testing.assert_allclose(mask.GetOrigin(), (-19.375, 7.25, -302.5), atol=1e-6)


def test_masks_of_images_have_their_size_and_names_of_their_own(x_rays, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    Image.fromarray(np.full((40, 50), 9, np.uint8)).save(x_rays / "a.jpg")
    (x_rays / "broken.jpg").unlink()
    reading = Preprocessing(2, (32, 32), "minmax", whole=True, image_size=60)
    network = VOLUMES._replace(reading=reading, outputs=("one", "two"))
    save_tuned(tmp_path / "best.pt", network)
    typed = "--phase", "predict", "--weight", tmp_path / "best.pt", "--data", x_rays, "--output", out, "--workers", 0
    status, error = run(monkeypatch, capsys, *typed)
    assert not status, error
    sizes = {path.name: Image.open(path).size for path in (out / "masks").iterdir()}
    assert sizes == {"a.png.png": (100, 70), "a.jpg.png": (50, 40), "b_a.png": (80, 120), "b_IM1.png": (85, 75)}
    mask = np.array(Image.open(out / "masks" / "b_a.png"))
    row = table(out / "predictions.csv")["b/a.png"]
    assert [float(row[f"pixels_{name}"]) for name in network.outputs] == [(mask == 1).sum(), (mask == 7).sum()]


def test_weights_without_a_record_take_that_of_their_run_or_options(tmp_path):
    weights = tmp_path / "best.pt"
    save_checkpoint(weights, {"state_dict": {"x": torch.zeros(1)}})
    needed = ["--phase", "predict", "--weight", str(weights), "--data", "D", "--output", "O"]
    with pytest.raises(UserError, match="--n and --d") as caught:
        tuned_of(parse_options(needed))
    assert "run.json" in str(caught.value)
    with pytest.raises(UserError, match="--task"):
        tuned_of(parse_options([*needed, "--n", "folder", "--d", "2"]))
    with pytest.raises(UserError, match="--labels"):
        tuned_of(parse_options([*needed, "--n", "folder", "--d", "2", "--task", "classification"]))
    with pytest.raises(UserError, match="--classes"):
        tuned_of(parse_options([*needed, "--n", "folder"]))
    typed = tuned_of(
        parse_options([*needed, "--n", "folder", "--d", "2", "--task", "classification", "--labels", "a,b"])
    )
    assert typed.outputs == ("a", "b") and typed.reading == Preprocessing(2, (224, 224), "file")
    options = {"phase": "finetune", "n": "lits", "d": 3, "crop": [32, 16, 8], "norm": "in", "skips": False}
    (tmp_path / "run.json").write_text(json.dumps({"options": options}))
    stored = tuned_of(parse_options(needed))
    assert stored.reading == Preprocessing(3, (32, 16, 8), "ct", whole=True)
    assert (stored.outputs, stored.mask_values, stored.norm, stored.skips) == (("liver",), (1,), "in", False)
    network = VOLUMES._replace(channels=4, norm="gn", thresholds={"organ": 0.5})
    save_checkpoint(weights, {"state_dict": {"x": torch.zeros(1)}, RECORD: network.as_record()})
    assert read_tuned(weights) == network


def test_features_are_those_that_probes_see(x_rays, tmp_path, monkeypatch, capsys):
    (x_rays / "broken.jpg").unlink()
    torch.manual_seed(5)
    encoder = build_encoder(2, 3).eval()
    opt = {"d": 2, "global_size": SIDE, "invert": True, "intensity": None, "image_size": 0}
    save_checkpoint(tmp_path / "pre.pt", {"opt": opt, "state_dict": encoder.state_dict()})
    (x_rays / "labels.csv").write_text("file,effusion,old\na.png,1,0\nb/a.png,0,1\n")
    status, error = run(
        monkeypatch, capsys, "--phase", "features", "--n", "folder", "--d", 2, "--weight", tmp_path / "pre.pt",
        "--data", x_rays, "--output", tmp_path / "out", "--workers", 0, "--b", 2, "--labels", "old",
    )  # fmt: skip
    assert not status, error
    with np.load(tmp_path / "out" / "features.npz") as found:
        names, features = found["names"].tolist(), found["features"]
    assert names == ["a.png", "b/IM1", "b/a.png"] and features.dtype == np.float32
    inputs = shown_in_fine_tuning(x_rays, names, ImageSpec(0, "file", True), SIDE)
    with torch.no_grad():
        np.testing.assert_allclose(features, PooledFeatures(encoder)(inputs).numpy(), rtol=1e-4, atol=1e-5)
        spec = preprocessing_of(tmp_path / "pre.pt", dim=2)
        own = load_encoder(tmp_path / "pre.pt", dim=2).eval()(preprocess(x_rays / "b" / "IM1", spec))[-1]
    np.testing.assert_allclose(own.mean(dim=(2, 3))[0].numpy(), features[1], rtol=1e-4, atol=1e-5)
    assert Image.open(tmp_path / "out" / "map.png").size[0] > 100
    with pytest.raises(UserError, match="for --d 2"):
        preprocessing_of(tmp_path / "pre.pt", dim=3)


def test_volumes_are_prepared_as_in_pre_training(tmp_path):
    rng = np.random.default_rng(1)
    image = sitk.GetImageFromArray(rng.integers(-1200, 900, (11, 18, 23)).astype(np.int16))
    image.SetSpacing((1.0, 1.25, 1.5))
    sitk.WriteImage(image, tmp_path / "ct.nii.gz")
    windows = preprocess(tmp_path / "ct.nii.gz", PRETRAINED[3]._replace(window=(16, 16, 8)))
    volume = (load_resampled(tmp_path / "ct.nii.gz").clip(-1000, 1000).astype(np.float32) + 1000) / 2000
    assert volume.shape == (23, 23, 17) and windows.shape == (2 * 2 * 3, 1, 16, 16, 8)
    cubes = torch.from_numpy(volume[None, None, 7:, :16, 4:12])  # windows at 0 and 7; 0 and 7; 0, 4 and 9
    expected, _ = eval_cubes(LabelledCubes(cubes, torch.zeros(1, 1)))
    torch.testing.assert_close(windows[2 * 3 + 1 : 2 * 3 + 2], expected, rtol=0, atol=1e-5)


def test_windows_cover_the_image_and_small_images_are_padded():
    image = torch.arange(2 * 7 * 3.0).view(2, 7, 3) + 1
    windows = cut_windows(image, (4, 5))
    assert windows.shape == (2, 2, 4, 5) and not windows[..., 3:].any()
    torch.testing.assert_close(windows[0, :, :, :3], image[:, :4])
    torch.testing.assert_close(windows[1, :, :, :3], image[:, 3:])


def test_principal_components_keep_distances_in_a_plane():
    rng = np.random.default_rng(2)
    plane = rng.normal(size=(12, 2)) * (9, 2)
    axes, _ = np.linalg.qr(rng.normal(size=(6, 2)))
    points, shares = principal_components(plane @ axes.T + 5)
    np.testing.assert_allclose(
        np.linalg.norm(points[:, None] - points, axis=2), np.linalg.norm(plane[:, None] - plane, axis=2), atol=1e-9
    )
    assert shares[0] > shares[1] and shares.sum() == pytest.approx(1)
    assert not principal_components(np.ones((1, 6)))[0].any()


def test_long_features_do_not_decide_the_map():
    features = np.array([[1, 0.1], [1, -0.1], [100, 10], [0, 0]])
    scaled = of_length_one(features)
    assert np.linalg.norm(scaled, axis=1).tolist() == pytest.approx([1, 1, 1, 0])
    assert scaled[2].tolist() == pytest.approx(scaled[0].tolist())
