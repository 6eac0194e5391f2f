"""A user's own volumes from the command line: classified, probed and predicted by the labels of a table."""

import csv
import json
import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import nn

import luna_preprocess
from data.catalog.crop_sets import CROP_SETS
from data.catalog.folder_volumes import index_volumes
from data.catalog.list_folders import ListFolders
from data.catalog.name_matching import listed_name
from data.datasets.luna import find_crop_files
from data.evaluation_loader import EvaluationLoader
from data.inputs import flipped_windows
from data.labelled_volumes import WINDOWS, cut_random, open_labelled_volumes
from data.loader import Loader
from data.preprocess import PRETRAINED, Preprocessing, preprocess
from downstream import probe
from downstream.tasks import ON_VOLUMES
from downstream.tuned import read_tuned
from evaluation.predictions import Predictions, mean_outputs
from losses.classification import known_cross_entropy, windowed_cross_entropy
from models.encoders import build_encoder
from tests.dicom_slices import write_series
from tests.model_cards import run_card
from tests.programs import keep_state, run
from tests.scans import lung
from utils.checkpoints import save_checkpoint
from utils.errors import UserError
from utils.records import LabelledWindows
from utils.seeding import torch_generator

WINDOW = (16, 16, 8)
READING = PRETRAINED[3]._replace(window=WINDOW)
SERIES, FILES = 4, 14


def patient_id(text):
    return [(0x00100020, "LO", text)]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Fourteen volumes, those of odd number with a bright block and ``mass``; four are DICOM series of two patients."""
    root = tmp_path_factory.mktemp("own")
    rows = []
    for i in range(FILES):
        hu = lung((12, 20, 18), seed=i).clip(-1000)
        if i % 2:
            hu[3:10, 4:16, 4:14] = 60
        if i < SERIES:
            write_series(root / "discs" / f"D{i}" / "st 1", hu, uid=f"1.2.{i}", extra=patient_id(f"P{i // 2}"))
            name = f"D{i}"  # the only volume below this folder
        else:
            name = f"sub {i}/ct.nii.gz" if i % 3 else f"sub {i}/ct.mha"
            image = sitk.GetImageFromArray(hu)
            image.SetSpacing((1.0, 1.0, 1.5))
            (root / name).parent.mkdir()
            sitk.WriteImage(image, str(root / name))
        rows.append([name, i % 2, "" if i == 7 else int(i > 9), "text"])
    rows[13][1:3] = "", ""
    with open(root / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("name", "mass", "other", "remark"), *rows, ("gone", 1, 1, "")])
    (root / "patients.csv").write_text("file,patient\nsub 4/ct.nii.gz,both\nsub 5,both\n")
    return root


def options_of(data, output, phase="finetune", *more):
    return [
        "--phase", phase, "--n", "folder", "--d", 3, "--data", data, "--output", output, "--lists",
        output.parent / "lists", "--b", 4, "--ratio", 0, "--workers", 0, "--weight", "none", "--crop", *WINDOW, *more,
    ]  # fmt: skip


def opened(own, lists, **settings):
    values = {"ratio": 0.0, "seed": 1, "reading": READING} | settings
    return open_labelled_volumes(root=own, lists=ListFolders.at(lists), **values)


def names_of(split):
    return [split.name(i) for i in range(len(split))]


def rows_of(path):
    with open(path, newline="") as file:
        return {row.pop("name"): row for row in csv.DictReader(file)}


def test_a_table_names_series_by_folders_and_files_by_paths_and_patients_stay_together(own, tmp_path, capsys):
    splits = opened(own, tmp_path)
    assert splits.classes == ("mass", "other")
    patients = {n: p for split in splits[:3] for n, p in zip(names_of(split), split.patients, strict=True)}
    labels = {n: row for split in splits[:3] for n, row in zip(names_of(split), split.labels.tolist(), strict=True)}
    names = [f"discs/D{i}/st 1/1.2.{i}" if i < SERIES else f"sub {i}/ct" for i in range(FILES - 1)]
    assert sorted(labels) == sorted(names)
    for i, name in enumerate(names):
        np.testing.assert_equal(labels[name], [i % 2, math.nan if i == 7 else i > 9])
    assert patients[names[0]] == patients[names[1]] != patients[names[2]] == patients[names[3]]
    assert patients[names[4]] == patients[names[5]] == "both" and len(set(patients.values())) == 10
    sets = [set(split.patients) for split in splits[:3]]
    assert not (sets[0] & sets[1] or sets[1] & sets[2] or sets[0] & sets[2])
    error = capsys.readouterr().err
    assert "labels.csv: 14 of 14 images of --data with a row; 14 of 15 names of its rows with an image, 1 " in error
    assert "4 names of folders with one file each (D0 is discs/D0/st 1/1.2.0)\n" in error
    assert "13 of 14 images with a label, 1 with blanks only (sub 13/ct)\n" in error
    for source in ("1 by a table (2 images)", "2 by DICOM's Patient ID (4 images)", "7 by their folder (7 images)"):
        assert source in error
    assert "discs/D0/st%201/1.2.0" in (tmp_path / "folder_train.txt").read_text().split()


def test_lists_and_skipped_names_are_those_of_images(own, tmp_path):
    (tmp_path / "folder_train.txt").write_text("".join(f"sub%20{i}/ct\n" for i in range(4, 10)))
    (tmp_path / "folder_valid.txt").write_text("D0\n")
    (tmp_path / "folder_test.txt").write_text("sub%2010/ct.nii.gz\nsub%2011\n")
    (tmp_path / "skip").write_text("sub%206\n")
    splits = opened(own, tmp_path, skip=tmp_path / "skip", columns=["other"], ratio=0.2)
    assert names_of(splits.train) == [f"sub {i}/ct" for i in (5, 8, 9)]  # 4 pre-trained, 7 has no label
    assert names_of(splits.valid) == ["discs/D0/st 1/1.2.0"] and splits.test_source == "folder_test.txt"
    assert names_of(splits.test) == ["sub 10/ct", "sub 11/ct"] and splits.test.labels.tolist() == [[1], [1]]


def test_volumes_have_the_names_of_their_crops_in_lists(own, tmp_path):
    """So that the list that pre-trained is cut in fine-tuning."""
    sizes = "--input_rows 16 --input_cols 16 --input_deps 8 --crop_rows 8 --crop_cols 8 --scale 1 --tissue none"
    command = ["--data", str(own), "--save", str(tmp_path / "crops"), "--workers", "1", *sizes.split()]
    assert luna_preprocess.main(command) == 0
    crops = {crop.scan for crop in find_crop_files(tmp_path / "crops", "train", CROP_SETS["folder"])}
    assert crops == {listed_name(name) for name in index_volumes(own).names} and len(crops) == FILES


def test_training_sees_other_windows_in_each_epoch_and_evaluation_all(own, tmp_path):
    splits = opened(own, tmp_path)
    one, two = (list(Loader(splits.train, batch_size=4, workers=w, seed=1).batches(1)) for w in (0, 2))
    assert one[0].windows.shape == (4, WINDOWS, *WINDOW)
    assert all(torch.equal(a, b) for x, y in zip(one, two, strict=True) for a, b in zip(x, y, strict=True))
    (first, labels), (again, _) = splits.train.draw(0, 2), splits.train.draw(1, 2)
    assert not torch.equal(first, again) and torch.equal(first, splits.train.draw(0, 2)[0])
    whole, same = splits.whole_train()[2]
    assert torch.equal(whole, preprocess(splits.train.volumes.sources[2], READING)) and torch.equal(labels, same)
    # Every random window is z-normalised as the windows of evaluation are.
    inputs, _ = flipped_windows(LabelledWindows(first.unsqueeze(0), labels.unsqueeze(0)), torch_generator("flips"))
    assert inputs.shape == (WINDOWS, 1, *WINDOW)
    assert inputs.mean((1, 2, 3, 4)).abs().max() < 1e-5 and inputs.std((1, 2, 3, 4)).allclose(torch.ones(WINDOWS))


def test_random_windows_are_parts_of_the_volume_and_padded_where_it_is_smaller():
    volume = np.arange(-900, -900 + 6 * 5 * 3, dtype=np.int16).reshape(6, 5, 3)
    scaled = torch.from_numpy((volume.astype(np.float32) + 1000) / 2000)
    windows = cut_random(volume, (2, 5, 4), 64, np.random.default_rng(0))
    assert windows.shape == (64, 2, 5, 4) and not windows[..., 3].any()
    parts = [next(s for s in range(5) if torch.allclose(scaled[s : s + 2], w[..., :3])) for w in windows]
    assert set(parts) == set(range(5))


def test_windows_of_a_volume_are_flipped_alike_and_each_volume_on_its_own():
    windows = torch.rand(24, 2, 4, 4, 4, generator=torch_generator("windows"))
    batch = LabelledWindows(windows, torch.zeros(24, 1))
    inputs, _ = flipped_windows(batch, torch_generator("flips"))
    assert torch.equal(inputs, flipped_windows(batch, torch_generator("flips"))[0])
    normal = (windows - windows.mean((2, 3, 4), True)) / windows.std((2, 3, 4), keepdim=True)
    axes = [(), (1,), (2,), (3,), (1, 2), (1, 3), (2, 3), (1, 2, 3)]
    found = [
        next(f for f in axes if torch.allclose(own.flip(f), shown, atol=1e-5))
        for own, shown in zip(normal, inputs.view(24, 2, 4, 4, 4), strict=True)
    ]
    assert len(set(found)) >= 6


def test_the_loss_is_that_of_the_mean_features_of_each_volume():
    torch.manual_seed(0)
    features, head, labels = torch.rand(6, 5), nn.Linear(5, 2), torch.tensor([[1.0, math.nan], [0, 1]])
    means = torch.stack([features[:3].mean(0), features[3:].mean(0)])
    expected = known_cross_entropy(head(means), labels)
    torch.testing.assert_close(windowed_cross_entropy(head(features), labels), expected)
    counts = torch.tensor([1, 5])
    outputs = mean_outputs(head, features, counts, torch.device("cpu"), at_once=2)
    expected = torch.stack([head(features[:1]).mean(0), head(features[1:]).mean(0)])
    torch.testing.assert_close(outputs.float(), expected)


def test_from_volumes_to_results_resumed_alike_and_predicted_alike(own, tmp_path, monkeypatch, capsys):
    out, resumed = tmp_path / "out", tmp_path / "resumed"
    state = keep_state(monkeypatch, tmp_path / "within.pt", at=(1, 1))
    options = ["--epochs", 1, "--lr", 1e-3, "--save_minutes", 0, "--intensity", "percentiles", "--spacing", 1.25]
    status, error = run(monkeypatch, capsys, *options_of(own, out, "finetune", *options))
    assert status == 0, error
    results = json.loads((out / "results.json").read_text())
    assert results["auroc"].keys() | results["without_auroc"].keys() == {"mass", "other"}
    network = read_tuned(out / "best.pt")
    assert network.reading == Preprocessing(3, WINDOW, "percentiles", 1.25) and network.outputs == ("mass", "other")
    status, error = run(
        monkeypatch, capsys, *options_of(own, resumed, "finetune", *options[:-2], "--spacing", 2, "--resume", state)
    )
    assert status == 2 and "spacing was 1.25" in error
    status, error = run(monkeypatch, capsys, *options_of(own, resumed, "finetune", *options, "--resume", state))
    assert status == 0 and "epoch 0:" not in error, error
    for name in ("best.pt", "pcrlv2_folder_finetune_0.0_1.pt"):
        kept, found = (torch.load(folder / name)["state_dict"] for folder in (out, resumed))
        assert kept.keys() == found.keys() and all(torch.equal(kept[key], found[key]) for key in kept)
    assert json.loads((resumed / "results.json").read_text()) == results

    # The record says all that prediction needs, also where a file is broken; without it, run.json does.
    (own / "sub 99").mkdir()
    (own / "sub 99" / "broken.nii").write_bytes(b"\0" * 400)
    typed = ["--phase", "predict", "--data", own, "--workers", 0, "--max_bad", 0.1]
    status, error = run(monkeypatch, capsys, *typed, "--weight", out / "best.pt", "--output", tmp_path / "predicted")
    (own / "sub 99" / "broken.nii").unlink()
    assert status == 0 and "sub 99/broken.nii: expected" in error, error
    found, tested = rows_of(tmp_path / "predicted" / "predictions.csv"), rows_of(out / "predictions.csv")
    assert len(found) == FILES
    for name, row in tested.items():
        for output in network.outputs:
            assert float(found[name][output]) == pytest.approx(float(row[output]), abs=2e-6)
    card = run_card(out, own / "sub 5" / "ct.nii.gz", 3)
    row = [float(found["sub 5/ct"][output]) for output in network.outputs]
    np.testing.assert_allclose(card["probabilities"][0].numpy(), row, atol=2e-6)
    assert (found["sub 4/ct"].keys() >= {"threshold_mass", "threshold_other"}) == bool(network.thresholds)
    last = [*typed, "--weight", out / "pcrlv2_folder_finetune_0.0_1.pt", "--output", tmp_path / "last"]
    status, error = run(monkeypatch, capsys, *last)
    assert status == 1 and "--labels with all its classes" in error
    status, error = run(monkeypatch, capsys, *last, "--n", "folder", "--labels", "mass,other")
    assert status == 0 and "percentiles, at 1.25 mm, in windows of 16×16×8 voxels" in error, error


def test_processes_share_volumes_and_have_the_outputs_of_one(own, tmp_path):
    splits, module = opened(own, tmp_path), nn.Sequential(nn.AdaptiveAvgPool3d(2), nn.Flatten())

    def outputs(rank, size):
        split = splits.whole_train()
        return ON_VOLUMES.predict(
            module, EvaluationLoader(split, batch_size=1, workers=0, rank=rank, world_size=size), torch.device("cpu")
        )

    whole, joined = outputs(0, 1), Predictions.join([outputs(1, 2), outputs(0, 2)])
    assert whole.indices == joined.indices == list(range(len(splits.train)))
    np.testing.assert_array_equal(whole.values, joined.values)
    np.testing.assert_array_equal(whole.labels, splits.train.labels)


def test_probes_see_the_features_of_the_other_phase_to_the_last_bit(own, tmp_path, monkeypatch, capsys):
    torch.manual_seed(4)
    crops = {"window": list(WINDOW), "intensity": "minmax", "spacing": 1.5}
    weights = {"opt": {"d": 3, "crops": crops}, "state_dict": build_encoder(3, 1).state_dict()}
    save_checkpoint(tmp_path / "pre.pt", weights)
    typed = ["--n", "folder", "--d", 3, "--weight", tmp_path / "pre.pt", "--data", own, "--workers", 0]
    status, error = run(monkeypatch, capsys, "--phase", "features", *typed, "--output", tmp_path / "features")
    assert status == 0, error
    with np.load(tmp_path / "features" / "features.npz") as found:
        expected = dict(zip(found["names"].tolist(), found["features"], strict=True))
    seen = {}
    report = probe.run_probes

    def keep(features, *args, name, **kwargs):
        seen.update(features)
        return report(features, *args, name=name, **kwargs)

    monkeypatch.setattr(probe, "run_probes", keep)
    lists = ["--lists", tmp_path / "lists", "--ratio", 0, "--probe_neighbours", 2]
    status, error = run(monkeypatch, capsys, "--phase", "probe", *typed, *lists, "--output", tmp_path / "probe")
    assert status == 0, error
    splits = opened(own, tmp_path / "lists", seed=42)
    for split, part in (("train", splits.train), ("valid", splits.valid), ("test", splits.test)):
        assert seen[split].indices == list(range(len(part)))
        for i, name in enumerate(names_of(part)):
            np.testing.assert_array_equal(seen[split].values[i], expected[name])
            np.testing.assert_equal(seen[split].labels[i], part.labels[i].numpy())
    assert set(rows_of(tmp_path / "probe" / "predictions_linear.csv")) == set(names_of(splits.test))


def test_a_cache_of_volumes_gives_the_same_windows_without_reading_files_again(own, tmp_path, monkeypatch, capsys):
    cache = tmp_path / "cache"

    def seen(**settings):
        splits = opened(own, tmp_path / "lists", **settings)
        train = [splits.train.draw(epoch, i)[0] for epoch in (0, 3) for i in range(len(splits.train))]
        return [*train, *(split[i][0] for split in (splits.whole_train(), splits.valid) for i in range(len(split)))]

    plain, first = seen(), seen(cache=cache)
    assert "prepared again" not in capsys.readouterr().err
    wide = READING._replace(window=(24, 8, 8))
    plain_wide = seen(reading=wide)
    with monkeypatch.context() as patch:
        patch.setattr("data.volume_cache.load_volume", lambda *_: pytest.fail("a file was read again"))
        again, other_windows = seen(cache=cache), seen(cache=cache, reading=wide)
    for expected, *found in zip(plain, first, again, strict=True):
        assert all(torch.equal(expected, one) for one in found)
    assert all(torch.equal(a, b) for a, b in zip(plain_wide, other_windows, strict=True))
    coarse = READING._replace(spacing=2.0)
    expected = seen(reading=coarse)
    capsys.readouterr()
    assert all(torch.equal(a, b) for a, b in zip(expected, seen(reading=coarse, cache=cache), strict=True))
    error = capsys.readouterr().err
    assert "of 13 volumes in" in error and "with other settings or by another version, and are prepared again" in error


def test_runs_with_a_cache_end_alike(own, tmp_path, monkeypatch, capsys):
    for phase, result in (("finetune", "metrics.jsonl"), ("probe", "results.json")):
        found = []
        for name, more in (("plain", []), ("cached", ["--cache", tmp_path / "cache"])):
            epochs = ["--epochs", 0] if phase == "finetune" else []
            output = tmp_path / phase / name
            assert run(monkeypatch, capsys, *options_of(own, output, phase, *epochs, *more))[0] == 0
            text = (output / result).read_text()
            line = json.loads(text)
            found.append({key: line[key] for key in line if "second" not in key and "wait" not in key})
        assert found[0] == found[1]
    assert len(list((tmp_path / "cache").glob("*_volume.npy"))) == FILES - 1


def test_what_does_not_fit_is_one_line(own, tmp_path, monkeypatch, capsys):
    def error_of(*options, data=own):
        status, error = run(monkeypatch, capsys, *options_of(data, tmp_path / "out", "finetune", *options))
        lines = [line for line in error.splitlines() if "error:" in line]
        assert status in (1, 2) and len(lines) == 1, error
        return lines[0]

    for option in (["--save_masks"], ["--norm", "gn"], ["--no-skips"], ["--classes", 2]):
        name = option[0].replace("no-", "")
        assert f"{name} is not for classification, the task of --data" in error_of(*option)
    for option in (["--labels", "mass"], ["--spacing", 2], ["--intensity", "percentiles"]):
        assert f"{' '.join(map(str, option[: 2 if option[0] == '--intensity' else 1]))} is not for segmentation" in (
            error_of("--task", "segmentation", *option)
        )
    assert "there is no lesion" in error_of("--labels", "lesion")
    bare = tmp_path / "bare"
    (bare / "masks").mkdir(parents=True)
    sitk.WriteImage(sitk.GetImageFromArray(lung((12, 20, 18))), str(bare / "x.nii.gz"))
    (bare / "labels.csv").write_text("file,a\ny,1\n")
    assert "has both; give --task segmentation or --task classification" in error_of(data=bare)
    with pytest.raises(UserError, match=r"none of its 1 is one \(y; of --data: x\)"):
        opened(bare, tmp_path / "other")
