"""Segmentation from the command line, each data set in its own layout, and its components: crops, loss, metrics."""

import csv
import json
import shutil
import sys

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image

from data.catalog.list_folders import ListFolders
from data.datasets.brats import BRATS_REGIONS, find_brats
from data.datasets.case_cache import CaseCache
from data.datasets.case_crops import cut_crop, draw_start
from data.datasets.cases import Case, Prepared, ReadSpec, read_case, scaled
from data.datasets.folder import find_folder
from data.datasets.lits import find_lits
from data.datasets.segmentation import open_segmentation
from data.inputs import FlippedCrops
from data.loader import Loader
from data.mask_files import regions_to_mask, save_mask
from data.readers.volumes import load_resampled
from data.transforms.hounsfield import scale
from downstream.tuned import read_tuned
from evaluation.metrics import means_of
from evaluation.segmentation import CaseScore, Inference, choose, dice_of, distance_of, on_grid, window_logits
from evaluation.segmentation_report import describe_segmentation
from losses.segmentation import dice_and_cross_entropy, soft_dice_loss
from models.pcrlv2_model_3d import Encoder3d
from models.pretrained import load_encoder_with_match
from models.segmentation import build_segmenter
from tests.dicom_files import dicom_bytes
from tests.masked_images import make_masked_images
from tests.programs import run
from tests.scans import write_scan
from utils.errors import UsageError, UserError
from utils.records import LabelledCrops
from utils.seeding import numpy_generator, torch_generator

NAN = float("nan")
CPU = torch.device("cpu")


def write_nifti(path, array, spacing=(1.0, 1.0, 1.0)):
    """X Y Z to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    image.SetSpacing(spacing)
    image.SetOrigin((5.0, -7.0, 11.0))
    sitk.WriteImage(image, str(path))
    return path


def ball(shape, centre, radius):
    """bool X Y Z."""
    grid = np.meshgrid(*map(np.arange, shape), indexing="ij")
    return sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) <= radius**2


@pytest.fixture(scope="module")
def brats(tmp_path_factory):
    """Seven patients of 18×26×14 voxels, the last without any enhancing tumour."""
    root = tmp_path_factory.mktemp("brats")
    shape = (18, 26, 14)
    for i in range(7):
        name, rng = f"Brats18_{i}", np.random.default_rng(i)
        centre = rng.uniform(6, 9, 3)
        label = np.zeros(shape, np.uint8)
        for value, radius in ((2, 5), (1, 3.5), (4, 2 if i < 6 else 0)):
            label[ball(shape, centre, radius) & (radius > 0)] = value
        folder = root / ("HGG" if i % 2 else "LGG") / name
        for k, kind in enumerate(("t1", "t2", "flair", "t1ce")):
            image = (100 + 200 * (label > k) + rng.normal(0, 10, shape)).astype(np.int16)
            write_nifti(folder / f"{name}_{kind}{'.nii' if i == 2 else '.nii.gz'}", image)
        write_nifti(folder / f"{name}_seg.nii.gz", label)
    return root


@pytest.fixture(scope="module")
def lits(tmp_path_factory):
    """Five scans to train and two to test, of voxels that are no cubes; the second test scan has no mask."""
    root = tmp_path_factory.mktemp("lits")
    shape, spacing = (20, 24, 9), (0.8, 0.8, 2.0)
    for split, numbers in (("train", range(5)), ("test", range(5, 7))):
        for i in numbers:
            label = ball(shape, (10, 12, 4), 4).astype(np.uint8)
            label[9:11, 11:13, 4] = 2
            hu = np.where(label > 0, 100, -200) + np.random.default_rng(i).normal(0, 20, shape)
            dash, ending = ("-", ".nii") if i % 2 else ("", ".nii.gz")
            write_nifti(root / split / "CT" / f"volume{dash}{i}{ending}", hu.astype(np.int16), spacing)
            if i < 6:
                write_nifti(root / split / "seg" / f"segmentation{dash}{i}{ending}", label, spacing)
    return root


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    return make_masked_images(tmp_path_factory.mktemp("flat"))


def options_of(data, output, name, dim=3, weight="none"):
    return [
        "--phase", "finetune", "--data", data, "--output", output, "--lists", output.parent / "lists", "--n", name,
        "--d", dim, "--b", 2, "--ratio", 0, "--workers", 0, "--lr", 1e-3, "--weight", weight, "--epochs", 1,
    ]  # fmt: skip


def rows_of(output):
    with open(output / "predictions.csv", newline="") as file:
        return list(csv.DictReader(file))


def numbers_of(output):
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{k: line[k] for k in ("epoch", "total", "valid_loss", "best_epoch")} for line in lines]


def test_brats_from_weights_to_results_and_resumed_alike(brats, tmp_path, monkeypatch, capsys):
    weights = tmp_path / "encoder.pt"
    torch.manual_seed(5)
    torch.save({"state_dict": Encoder3d().state_dict()}, weights)
    whole, second, crop = tmp_path / "whole", tmp_path / "second", ["--crop", 16, 24, 16]
    status, error = run(monkeypatch, capsys, *options_of(brats, whole, "brats", weight=weights), *crop, "--save_masks")
    # GroupNorm takes weights and biases of the BatchNorm, but none of its running statistics.
    assert status == 0 and "32 of 32 entries matched" in error, error
    results = json.loads((whole / "results.json").read_text())
    assert results["test_split"] == "a fifth of the patients, held out" and results["hd95_unit"] == "mm"
    assert results["test_images"] == results["test_patients"] == 1
    (row,) = rows_of(whole)
    for region in ("WT", "TC", "ET"):
        value = results["dice"][region]["value"]
        assert (row[f"dice_{region}"] == "") == (value is None)
        assert value is None or float(row[f"dice_{region}"]) == pytest.approx(value, abs=1e-6)
    assert Image.open(whole / "overlays.png").width > 100
    saved = sitk.ReadImage(str(whole / "masks" / f"{row['name']}.nii.gz"))
    (mask,) = brats.glob(f"*/{row['name']}/*_seg.nii.gz")
    truth = sitk.ReadImage(str(mask))
    assert saved.GetSize() == truth.GetSize() and saved.GetOrigin() == truth.GetOrigin()
    predicted = sitk.GetArrayFromImage(saved) > 0
    expected = sitk.GetArrayFromImage(truth) > 0
    dice = 2 * (predicted & expected).sum() / (predicted.sum() + expected.sum())
    assert results["dice"]["WT"]["value"] == pytest.approx(dice, abs=1e-6)
    network = read_tuned(whole / "best.pt")
    assert (network.outputs, network.mask_values, network.channels) == (("WT", "TC", "ET"), (2, 1, 4), 4)
    assert (network.norm, network.exclusive, network.reading.intensity) == ("gn", False, "minmax")
    _, match = load_encoder_with_match(whole / "best.pt", dim=3, norm="gn")
    assert match.matched == 32
    # From the state after epoch 0, in another folder.
    resume = ["--resume", whole / "state" / "previous.pt"]
    status, error = run(monkeypatch, capsys, *options_of(brats, second, "brats", weight=weights), *crop, *resume)
    assert status == 0, error
    assert numbers_of(second) == numbers_of(whole)[1:]
    assert json.loads((second / "results.json").read_text()) == results
    (whole / "predictions.csv").unlink()
    again = [*crop, "--resume", "auto", "--save_masks"]
    status, error = run(monkeypatch, capsys, *options_of(brats, whole, "brats", weight=weights), *again)
    assert status == 0 and "not evaluated again" in error and not (whole / "predictions.csv").exists()


def test_lits_is_tested_on_its_test_folder_and_measured_on_the_scans_own_grid(lits, tmp_path, monkeypatch, capsys):
    out, cache = tmp_path / "out", tmp_path / "cache"
    options = ["--crop", 16, 24, 16, "--no-skips", "--cache", cache, "--save_masks", "--epochs", 0]
    status, error = run(monkeypatch, capsys, *options_of(lits, out, "lits"), *options)
    assert status == 0, error
    results = json.loads((out / "results.json").read_text())
    assert results["test_split"] == "the folder test" and results["dice"].keys() == {"liver"}
    assert [row["name"] for row in rows_of(out)] == ["test_volume5"]
    saved = sitk.ReadImage(str(out / "masks" / "test_volume5.nii.gz"))
    assert saved.GetSize() == (20, 24, 9) and saved.GetSpacing() == pytest.approx((0.8, 0.8, 2.0))
    trained = json.loads((out / "run.json").read_text())["samples"]
    assert len(list(cache.glob("train_volume*_image.npy"))) == len(list(cache.glob("*_labels.npy"))) == trained


def test_a_folder_of_images_and_masks(flat, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    options = ["--global_size", 64, "--image_size", 80, "--save_masks", "--epochs", 0]
    status, error = run(monkeypatch, capsys, *options_of(flat, out, "folder", 2), *options)
    assert status == 0, error
    results = json.loads((out / "results.json").read_text())
    assert results["dice"].keys() == {"class_1", "class_2"} and results["hd95_unit"] == "pixels"
    assert results["test_patients"] == 1 and results["test_images"] == 2
    names = [row["name"] for row in rows_of(out)]
    for name in names:
        mask = np.array(Image.open(out / "masks" / f"{name}.png"))
        assert mask.shape == (70, 90) and set(np.unique(mask)) <= {0, 1, 2}
    # Predicted from the files alone, by what the weights know, the masks are the same.
    predicted = ["--phase", "predict", "--weight", out / "best.pt", "--data", flat / "images"]
    status, error = run(monkeypatch, capsys, *predicted, "--workers", 0, "--output", tmp_path / "p")
    assert status == 0, error
    for name in names:
        again = np.array(Image.open(tmp_path / "p" / "masks" / f"{name}.png"))
        np.testing.assert_array_equal(again, np.array(Image.open(out / "masks" / f"{name}.png")))
    # A list of its own decides, and takes the patient's other image out of the rest.
    copy = shutil.copytree(flat, tmp_path / "copy")
    (copy / "test.txt").write_text("x3.png\n")
    splits = open_segmentation(
        name="folder", root=copy, lists=ListFolders.at(tmp_path), ratio=0, seed=0, dim=2, crop=(64, 64)
    )
    assert [case.name for case in splits.test.cases] == ["x3"] and splits.test_source == "test.txt"
    used = {case.name for split in (splits.train, splits.valid) for case in split.cases}
    assert used == {f"x{i}" for i in range(10)} - {"x2", "x3"}
    assert not set(splits.train.patients) & set(splits.valid.patients)
    # Lists that are typed come before it, with names as images or as cases.
    lists = tmp_path / "lists"
    lists.mkdir()
    for split, names in (("train", [f"images/x{i}.png" for i in range(10)]), ("valid", ["x4"]), ("test", ["x9.png"])):
        (lists / f"folder_{split}.txt").write_text("\n".join(names))
    splits = open_segmentation(
        name="folder", root=copy, lists=ListFolders.at(lists), ratio=0.2, seed=0, dim=2, crop=(64, 64)
    )
    assert [[case.name for case in split.cases] for split in splits[:3]] == [["x2", "x3", "x6", "x7"], ["x4"], ["x9"]]
    assert splits.test_source == "folder_test.txt"


def test_images_of_a_folder_may_be_tiff_and_dicom(flat, tmp_path):
    copy = shutil.copytree(flat, tmp_path / "copy")
    expected = {case.name: read_case(case, ReadSpec(2, (0, 1, 2)))[0].image for case in find_folder(flat, 2).cases}
    for name, ending in (("x1", "tif"), ("x2", "dcm"), ("x3", "jpg")):
        (copy / "images" / f"{name}.png").unlink()
        if ending == "dcm":
            (copy / "images" / f"{name}.dcm").write_bytes(dicom_bytes(expected[name][0]))
        else:
            Image.fromarray(expected[name][0]).save(copy / "images" / f"{name}.{ending}", quality=100)
    (copy / "patients.csv").write_text("file,patient\n" + "".join(f"x{i}.png,p{i // 5}\n" for i in range(10)))
    cases = {case.name: case for case in find_folder(copy, 2).cases}
    assert {case.patient for case in cases.values()} == {"p0", "p1"}
    for name in ("x1", "x2", "x3", "x4"):
        image = read_case(cases[name], ReadSpec(2, (0, 1, 2)))[0].image
        assert np.abs(image.astype(int) - expected[name]).max() <= (3 if name == "x3" else 0), name


def test_a_folder_of_volumes_of_every_format(tmp_path, monkeypatch, capsys):
    root = tmp_path / "volumes"
    for i, ending in enumerate((".nii", ".nii.gz", ".mha", ".mhd", ".npy", ".nii")):
        mask = ball((12, 18, 10), (6, 9, 5), 3 + i % 2).astype(np.uint8) * 7
        image = (mask * 9.5 + np.random.default_rng(i).normal(size=mask.shape)).astype(np.float32)
        for folder, array in (("images", image), ("masks", mask)):
            if ending == ".npy":
                np.save(root / folder / f"v{i}.npy", array)
            else:
                write_nifti(root / folder / f"v{i}{ending}", array)
    assert find_folder(root, 3).regions[0][:2] == ("foreground", (7,))
    out = tmp_path / "out"
    status, error = run(monkeypatch, capsys, *options_of(root, out, "folder"), "--crop", 16, 24, 8, "--epochs", 0)
    assert status == 0, error
    assert json.loads((out / "results.json").read_text())["dice"].keys() == {"foreground"}
    # The share that pre-trained is left out; too few samples remain here.
    status, error = run(monkeypatch, capsys, *options_of(root, out.parent / "x", "folder"), "--ratio", 0.8)
    assert status == 1 and "smaller --ratio" in error


def test_wrong_input_is_one_line(brats, flat, tmp_path, monkeypatch, capsys):
    lacking = shutil.copytree(brats, tmp_path / "lacking")
    (lacking / "HGG" / "Brats18_3" / "Brats18_3_t1ce.nii.gz").unlink()
    unmasked = shutil.copytree(flat, tmp_path / "unmasked")
    (unmasked / "masks" / "x4.png").unlink()
    tables = shutil.copytree(flat, tmp_path / "tables")
    (tables / "patients.csv").write_text("name,person\nx1,a\n")
    listed = shutil.copytree(flat, tmp_path / "listed")
    (listed / "test.txt").write_text("x99.png\n")
    for name, dim, root, message in (
        ("brats", 3, lacking, "1 of 7 patients"),
        ("brats", 3, flat, "expected BraTS in"),
        ("lits", 3, flat, "expected LiTS in"),
        ("folder", 2, brats, "expected masks/ for segmentation or labels.csv with columns of 0, 1 or blank"),
        ("folder", 2, unmasked, "no mask of"),
        ("folder", 2, tables, "patients.csv: expected the columns name,patient, got name,person"),
        ("folder", 2, listed, "test.txt: expected names of images, none of its 1 is one (x99.png)"),
    ):
        status, error = run(monkeypatch, capsys, *options_of(root, tmp_path / "out", name, dim))
        lines = [line for line in error.splitlines() if "error:" in line]
        assert status == 1 and len(lines) == 1 and message in lines[0], error
    monkeypatch.setitem(sys.modules, "monai.metrics", None)
    status, error = run(monkeypatch, capsys, *options_of(flat, tmp_path / "out", "folder", 2))
    assert status == 1 and "requirements-downstream.txt" in error
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]


def case_of(tmp_path, image, mask, spacing=(1.0, 1.0, 1.0)):
    paths = write_nifti(tmp_path / "i.nii.gz", image, spacing), write_nifti(tmp_path / "m.nii.gz", mask, spacing)
    return Case("c", "c", (paths[0],), paths[1])


def test_each_kind_of_damaged_case_has_its_own_error(tmp_path):
    image, mask = np.zeros((6, 7, 8), np.int16), np.zeros((6, 7, 8), np.uint8)
    reading = ReadSpec(3, (0, 1))
    read_case(case_of(tmp_path, image, mask), reading)
    with pytest.raises(UserError, match=r"expected a mask of the size of .*\(6, 7, 8\), got \(6, 7, 9\)"):
        read_case(case_of(tmp_path, image, np.zeros((6, 7, 9), np.uint8)), reading)
    with pytest.raises(UserError, match=r"expected labels of \[0, 1\], found \[3\]"):
        read_case(case_of(tmp_path, image, mask + np.uint8(3)), reading)
    with pytest.raises(UserError, match="whole numbers from 0 to 255"):
        read_case(case_of(tmp_path, image, np.full(mask.shape, 0.5, np.float32)), reading)
    np.save(tmp_path / "x.npy", np.full(image.shape, NAN, np.float32))
    with pytest.raises(UserError, match="not finite"):
        read_case(case_of(tmp_path, image, mask)._replace(images=(tmp_path / "x.npy",)), reading)
    case = case_of(tmp_path, image, mask)
    content = case.images[0].read_bytes()
    for broken in (content[: len(content) // 2], b"", b"no volume"):
        case.images[0].write_bytes(broken)
        with pytest.raises(UserError, match="i.nii.gz"):
            read_case(case, reading)
    case.images[0].unlink()
    with pytest.raises(UserError, match="there is no file"):
        read_case(case, reading)
    with pytest.raises(UserError, match="there is none at"):
        CaseCache(tmp_path / "cache", reading)(case)
    (tmp_path / "x.npy").write_bytes(b"nothing")
    with pytest.raises(UserError, match="damaged or something else"):
        read_case(Case("c", "c", (tmp_path / "x.npy",), case.mask), reading)
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / "rgb.png")
    with pytest.raises(UserError, match="one value a pixel, got RGB"):
        read_case(Case("c", "c", (tmp_path / "rgb.png",), tmp_path / "rgb.png"), ReadSpec(2, (0, 1)))


def test_ct_is_read_as_for_pre_training(tmp_path):
    hu = np.random.default_rng(0).integers(-2000, 2000, (11, 9, 7)).astype(np.int16)
    spacing = (0.7, 1.3, 2.5)
    mask = (hu > 0).astype(np.uint8)
    path = write_scan(tmp_path / "scan.mhd", hu.transpose(2, 1, 0), spacing=spacing, origin=(5.0, -7.0, 11.0))
    case = Case("c", "c", (path,), write_nifti(tmp_path / "m.nii.gz", mask, spacing))
    prepared, truth = read_case(case, ReadSpec(3, (0, 1), hounsfield=True))
    expected = load_resampled(path)
    # The two round to whole HU each in their own way.
    assert np.abs(prepared.image[0].astype(int) - expected).max() <= 1
    assert (prepared.image[0] == expected).mean() > 0.99
    np.testing.assert_allclose(scaled(*prepared[:3])[0], scale(prepared.image[0]), atol=1e-6)
    assert (truth.labels == mask).all() and truth.step == pytest.approx(spacing)
    # Each voxel of the 1 mm mask is the nearest one's.
    x, y, z = 5, 8, 10
    assert prepared.labels[x, y, z] == mask[round(x / 0.7), round(y / 1.3), round(z / 2.5)]
    # And back: a coordinate that grows by 1 a mm grows by the spacing a voxel.
    ramp = torch.arange(prepared.labels.shape[2], dtype=torch.float64).expand(1, *prepared.labels.shape)
    back = on_grid(ramp, *(torch.tensor(x, dtype=torch.float64) for x in (truth.offset, truth.step)), mask.shape)
    assert back.shape == (1, 11, 9, 7)
    np.testing.assert_allclose(back[0, 3, 4], np.arange(7) * 2.5)


def test_channels_are_scaled_each_by_itself_and_a_constant_one_is_0():
    image = np.stack([np.arange(24).reshape(2, 3, 4) - 5, np.full((2, 3, 4), 9)]).astype(np.int16)
    low, high = (f(image, axis=(1, 2, 3)).astype(np.float32) for f in (np.min, np.max))
    result = scaled(image, low, high)
    np.testing.assert_allclose(result[0].ravel(), np.arange(24) / 23, rtol=1e-6)
    assert (result[1] == 0).all()


def test_crops_are_within_the_image_and_half_of_them_contain_a_region():
    labels = np.zeros((30, 40, 20), np.uint8)
    labels[28, 3, 17] = 1
    rng, crop = numpy_generator(0), (8, 16, 24)
    starts = [draw_start(labels, crop, rng) for _ in range(200)]
    prepared = Prepared(labels[None], np.zeros(1, np.float32), np.ones(1, np.float32), labels)
    cuts = [cut_crop(prepared, start, crop) for start in starts]
    assert all(image.shape == (1, *crop) and mask.shape == crop for image, mask in cuts)
    assert all((image[0] == mask).all() for image, mask in cuts)
    assert min(np.array(starts)[:, 2]) == max(np.array(starts)[:, 2]) == 0  # padded at the end
    assert 0.4 < np.mean([mask.any() for _, mask in cuts]) < 0.65
    held = {tuple(start[:2]) for start, (_, mask) in zip(starts, cuts, strict=True) if mask.any()}
    # The voxel is at any position that the border allows: x from 21 or 22 on, y up to 3.
    assert held <= {(x, y) for x in (21, 22) for y in range(4)} and len(held) > 5


def test_an_epochs_crops_depend_on_the_epoch_alone_and_a_cache_changes_nothing(brats, tmp_path):
    def batches(epoch, workers, first_step=0, cache=None):
        splits = open_segmentation(
            name="brats",
            root=brats,
            lists=ListFolders.at(tmp_path),
            ratio=0,
            seed=3,
            dim=3,
            crop=(8, 16, 8),
            cache=cache,
        )
        loader = Loader(splits.train, batch_size=2, workers=workers, seed=3)
        return list(loader.batches(epoch, first_step))

    first, cached = batches(0, 0), [batches(0, workers, cache=tmp_path / "cache") for workers in (2, 0)]
    assert len(first) == 2 and first[0].images.shape == (2, 4, 8, 16, 8) and first[0].masks.shape == (2, 3, 8, 16, 8)
    for others in cached:
        assert all(
            torch.equal(a, b) for one, other in zip(first, others, strict=True) for a, b in zip(one, other, strict=True)
        )
    (again,) = batches(0, 0, first_step=1)
    assert torch.equal(again.images, first[1].images)
    assert not torch.equal(batches(1, 0)[0].images, first[0].images)
    # Another file of the same name is prepared again.
    case, other = find_brats(brats).cases[:2]
    cache = CaseCache(tmp_path / "cache", ReadSpec(3, (0, 1, 2, 4)))
    masks = [cache(one).labels for one in (case, case._replace(mask=other.mask), other)]
    assert np.array_equal(masks[1], masks[2]) and not np.array_equal(masks[0], masks[1])


def test_regions_of_brats_are_nested(brats, tmp_path):
    splits = open_segmentation(
        name="brats", root=brats, lists=ListFolders.at(tmp_path), ratio=0, seed=3, dim=3, crop=(8, 8, 8)
    )
    labels = np.array([0, 1, 2, 4], np.uint8)
    assert splits.train.masks(labels).tolist() == [[0, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1]]
    assert regions_to_mask(splits.train.masks(labels).numpy().astype(bool), BRATS_REGIONS).tolist() == labels.tolist()
    assert [len(case.images) for case in splits.train.cases] == [4] * len(splits.train)


def test_lists_and_ratio_decide_what_is_used(brats, tmp_path):
    names = [case.name for case in find_brats(brats).cases]
    (tmp_path / "brats_train.txt").write_text("\n".join(names[:6]))
    (tmp_path / "brats_test.txt").write_text(names[6])
    splits = open_segmentation(
        name="brats", root=brats, lists=ListFolders.at(tmp_path), ratio=0.5, seed=0, dim=3, crop=(8, 8, 8)
    )
    used = [case.name for split in (splits.train, splits.valid) for case in split.cases]
    assert sorted(used) == sorted(names[3:6]) and [case.name for case in splits.test.cases] == [names[6]]
    (tmp_path / "brats_valid.txt").write_text("\n".join([names[1], names[5], names[6]]))
    splits = open_segmentation(
        name="brats", root=brats, lists=ListFolders.at(tmp_path), ratio=0.5, seed=0, dim=3, crop=(8, 8, 8)
    )
    assert [[case.name for case in split.cases] for split in splits[:3]] == [names[3:5], names[1:6:4], names[6:]]
    (tmp_path / "skip.txt").write_text(f"{names[5]}\n{names[3]}\nsomeone\n")
    skipping = open_segmentation(
        name="brats", root=brats, lists=ListFolders.at(tmp_path), ratio=0.5, seed=0, dim=3, crop=(8, 8, 8),
        skip=tmp_path / "skip.txt",
    )  # fmt: skip
    assert [[case.name for case in split.cases] for split in skipping[:3]] == [names[4:5], names[1:2], names[6:]]
    (tmp_path / "brats_test.txt").write_text("someone")
    with pytest.raises(UserError, match=r"brats_test.txt: 1 of its 1 names are not in .* \(someone\)"):
        open_segmentation(
            name="brats", root=brats, lists=ListFolders.at(tmp_path), ratio=0, seed=0, dim=3, crop=(8, 8, 8)
        )


def test_lits_pairs_scans_with_masks_by_number(lits, tmp_path):
    layout = find_lits(lits)
    for case in layout.cases:
        number = case.name.removeprefix("train_volume").removeprefix("test_volume")
        assert number in case.images[0].name and number in case.mask.name
    copy = shutil.copytree(lits, tmp_path / "lits")
    (copy / "train" / "seg" / "segmentation-3.nii").unlink()
    with pytest.raises(UserError, match="1 of 5 scans .* lack files"):
        find_lits(copy)


def test_classes_of_a_folder(flat, tmp_path):
    assert [region.labels for region in find_folder(flat, 2).regions] == [(1,), (2,)]
    (one,) = find_folder(flat, 2, classes=1).regions
    assert one.labels == tuple(range(1, 256)) and one.mask_value == 1
    assert len(find_folder(flat, 2, classes=3).regions) == 3
    copy = shutil.copytree(flat, tmp_path / "copy")
    Image.fromarray(np.arange(70 * 90).reshape(70, 90).astype(np.uint8)).save(copy / "masks" / "x0.png")
    with pytest.raises(UserError, match="found 255; are these masks"):
        find_folder(copy, 2)
    Image.fromarray(np.zeros((70, 90), np.uint8)).save(copy / "images" / "x0.jpg")
    with pytest.raises(UserError, match="expected one file of a name"):
        find_folder(copy, 2)


def test_loss_by_hand():
    logits = torch.tensor([[[0.0, 30.0]], [[-30.0, 30.0]]])
    masks = torch.tensor([[[1, 1]], [[0, 0]]], dtype=torch.uint8)
    # p = .5 1 0 1, t = 1 1 0 0: Σpt = 1.5, Σp = 2.5, Σt = 2.
    expected = 1 - (2 * 1.5 + 1) / (2.5 + 2 + 1)
    assert soft_dice_loss(logits, masks).tolist() == pytest.approx([expected])
    cross_entropy = (np.log(2) + 0 + 0 + 30) / 4
    assert dice_and_cross_entropy(logits, masks).item() == pytest.approx(expected + 0.2 * cross_entropy, rel=1e-5)
    both = dice_and_cross_entropy(logits.expand(2, 3, 2), masks.expand(2, 3, 2))
    assert both.item() == pytest.approx(3 * (expected + 0.2 * cross_entropy), rel=1e-5)
    empty = torch.zeros(1, 1, 4, requires_grad=True)
    dice_and_cross_entropy(empty, torch.zeros(1, 1, 4, dtype=torch.uint8)).backward()
    assert (empty.grad > 0).all()


def test_dice_by_hand_and_of_empty_regions():
    chosen, truth = torch.zeros(4, 3, 4, 5, dtype=torch.bool), torch.zeros(4, 3, 4, 5, dtype=torch.bool)
    chosen[0, 0, 0, :4] = truth[0, 0, 0, 2:] = True  # 4 and 3 voxels, 2 of them shared
    chosen[1, 1, 1, 1] = truth[2, 2, 2, 2] = True
    found = dice_of(chosen, truth)
    assert found[:3] == pytest.approx([4 / 7, 0, 0]) and np.isnan(found[3])


def test_distance_is_in_mm_and_the_95th_percentile():
    chosen, truth = torch.zeros(3, 9, 7, 30, dtype=torch.bool), torch.zeros(3, 9, 7, 30, dtype=torch.bool)
    truth[0, 1, 1, 1] = chosen[0, 4, 1, 1] = True
    truth[1, 1, 1, 1] = chosen[1, 1, 3, 6] = True
    truth[2, 1, 1, 1] = True
    spacing = torch.tensor([0.5, 2.0, 3.0])
    found = distance_of(chosen, truth, spacing)
    assert found[0] == pytest.approx(1.5) and found[1] == pytest.approx(np.hypot(4, 15)) and np.isnan(found[2])
    # A row of 21 voxels against the same row and a voxel 4 mm beside it: 22 distances, all 0 but one.
    row, more = (torch.zeros(1, 9, 7, 30, dtype=torch.bool) for _ in range(2))
    row[0, 2, 2, :21] = more[0, 2, 2, :21] = True
    more[0, 2, 4, 20] = True
    assert distance_of(more, row, spacing) == [0.0]
    row[0, 2, 2, 8:21] = more[0, 2, 2, 8:21] = False
    # 9 distances, eight 0 and one of hypot(4, 39): the 95th percentile is at rank 7.6 of 0..8.
    expected = 0.6 * np.hypot(4, 39)
    assert distance_of(more, row, spacing) == pytest.approx([expected])


def test_regions_that_exclude_each_other_and_those_that_do_not():
    p = torch.tensor([[0.6, 0.9, 0.4], [0.7, 0.8, 0.3]])
    assert choose(p, exclusive=False).tolist() == [[True, True, False], [True, True, False]]
    assert choose(p, exclusive=True).tolist() == [[False, True, False], [True, False, False]]


def test_results_count_empty_regions():
    scores = [
        CaseScore(0, 0.1, [0.5, NAN], [3.0, NAN], [9, 0], [8, 0]),
        CaseScore(1, 0.1, [0.7, 0.0], [5.0, NAN], [9, 0], [8, 2]),
        CaseScore(2, 0.1, [0.0, NAN], [NAN, NAN], [9, 0], [0, 0]),
    ]
    found = describe_segmentation(scores, ["a", "b"], patients=["p", "q", "r"], seed=0)
    assert found["dice"]["a"]["value"] == pytest.approx(0.4) and found["dice"]["a"]["cases"] == 3
    assert found["dice"]["b"]["value"] == 0 and found["dice"]["b"]["cases"] == 1
    assert found["mean_dice"]["value"] == pytest.approx(0.2)
    assert found["hd95"]["a"]["value"] == 4 and found["hd95"]["b"] == {"value": None, "cases": 0}
    assert found["empty_regions"] == {
        "a": {"in_both": 0, "missed": 1, "invented": 0}, "b": {"in_both": 2, "missed": 0, "invented": 1}
    }  # fmt: skip
    assert found["dice"]["a"]["low"] < 0.4 < found["dice"]["a"]["high"]
    json.dumps(found, allow_nan=False)


def test_means_are_over_patients():
    values = np.random.default_rng(0).random((20, 2))
    values[3, 1] = NAN
    patients = [str(i) for i in range(20)]
    each, mean = means_of(values, patients, seed=0)
    many, many_mean = means_of(np.tile(values, (10, 1)), patients * 10, seed=0)
    assert [e.value for e in each] == pytest.approx([values[:, 0].mean(), np.nanmean(values[:, 1])])
    assert mean.value == pytest.approx(np.mean([e.value for e in each])) and mean.low < mean.value < mean.high
    np.testing.assert_allclose(np.array([*many, many_mean]), np.array([*each, mean]))
    assert means_of(values * NAN, patients, seed=0) == ([None, None], None)


def test_windows_cover_the_image_and_small_images_are_padded():
    inference = Inference((8, 16, 8), lambda x: x * 2, True, CPU)
    image = torch.rand(1, 13, 10, 21)
    found = window_logits(torch.nn.Identity(), image, inference)
    torch.testing.assert_close(found, image * 2)


def test_resampling_along_each_axis():
    x = torch.arange(5.0).view(1, 5, 1) * 10 + torch.arange(3.0)
    found = on_grid(x, torch.tensor([-0.25, 0.0]), torch.tensor([0.5, 1.0]), (10, 3))
    expected = np.interp(np.arange(10) * 0.5 - 0.25, np.arange(5), np.arange(5) * 10)
    np.testing.assert_allclose(found[0, :, 2], expected + 2)


def test_image_and_mask_are_flipped_together_and_2d_not_upside_down():
    for dim, shape in ((2, (4, 5)), (3, (4, 5, 6))):
        images = torch.rand(64, 1, *shape)
        batch = LabelledCrops(images, (images > 0.5).to(torch.uint8))
        inputs, masks = FlippedCrops(dim)(batch, torch_generator("flips"))
        grey = inputs[:, :1] * 0.229 + 0.485 if dim == 2 else inputs
        assert torch.equal((grey > 0.5).to(torch.uint8), masks)
        # Flipping along an axis leaves the sums along it.
        others = [a for a in range(2, 2 + dim) if not torch.allclose(grey.sum(a), images.sum(a), atol=1e-4)]
        assert others == ([2] if dim == 2 else [2, 3, 4])
        unchanged = int((masks == batch.masks).flatten(1).all(1).sum())
        assert (20 < unchanged < 44) if dim == 2 else (1 <= unchanged < 18)


@pytest.mark.parametrize(("settings", "shape"), [
    ({"dim": 2, "in_channels": 3}, (2, 3, 64, 32)),
    ({"dim": 2, "in_channels": 3, "skips": False}, (2, 3, 64, 32)),
    ({"dim": 3, "in_channels": 4, "norm": "gn"}, (2, 4, 16, 8, 24)),
    ({"dim": 3, "in_channels": 1, "skips": False}, (2, 1, 16, 8, 24)),
])  # fmt: skip
def test_networks_take_any_weights(tmp_path, settings, shape):
    torch.manual_seed(0)
    source = build_segmenter(regions=1, **{**settings, "in_channels": 3 if settings["dim"] == 2 else 1, "norm": "bn"})
    torch.save({"state_dict": source.encoder.state_dict()}, tmp_path / "x.pt")
    model = build_segmenter(regions=5, weights=tmp_path / "x.pt", **settings)
    own, pretrained = model.encoder.state_dict(), source.encoder.state_dict()
    assert all(torch.equal(value, pretrained[name]) for name, value in own.items() if value.shape[1:2] != (4,))
    logits = model(torch.rand(shape))
    assert logits.shape == (2, 5, *shape[2:]) and logits.min() < 0
    with pytest.raises(UsageError):
        build_segmenter(dim=2, regions=1, in_channels=3, norm="gn")


def test_skip_connections_are_used_or_left_out():
    torch.manual_seed(0)
    for dim, shape in ((2, (1, 3, 64, 32)), (3, (1, 1, 16, 8, 24))):
        for skips in (True, False):
            model = build_segmenter(dim=dim, regions=1, in_channels=shape[1], skips=skips).eval()
            features = [f.detach().requires_grad_() for f in model.encoder(torch.rand(shape))]
            model.encoder.forward = lambda _, found=features: found
            model(torch.rand(shape)).sum().backward()
            shallow = features[1 if dim == 2 else 0]
            assert (shallow.grad is not None) == skips and features[-1].grad is not None


def test_masks_are_saved_on_their_own_grid(tmp_path):
    np.save(tmp_path / "m.npy", np.zeros((3, 4, 5), np.uint8))
    mask = np.arange(60).reshape(3, 4, 5).astype(np.uint8)
    save_mask(tmp_path / "out", Case("a/b", "c", (), tmp_path / "m.npy"), mask)
    saved = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "a_b.nii.gz")))
    assert (saved.transpose(2, 1, 0) == mask).all() and len(list((tmp_path / "out").iterdir())) == 1
