"""Fine-tuning from the command line, and its components: splits, labels, loss, AUROC, best epoch."""

import csv
import json
import math
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from data.catalog.chest import FINDINGS
from data.catalog.labels import CHEXPERT_FINDINGS, read_chexpert_labels, read_listed_labels
from data.catalog.list_folders import ListFolders
from data.catalog.patients import chest_patient, chexpert_patient
from data.catalog.splits import Listed, split_by_patient
from data.datasets.classification import open_classification
from data.inputs import AugmentedInputs
from data.transforms.central_crop import central_square
from evaluation.metrics import auroc, resampled_aurocs, weighted_auroc
from losses.classification import known_cross_entropy
from models.classification import build_classifier
from models.pretrained import load_encoder_with_match
from tests.model_cards import run_card
from tests.programs import run
from utils.errors import UserError
from utils.records import LabelledImages
from utils.seeding import torch_generator

NAN = float("nan")


@pytest.fixture(scope="module")
def chexpert(tmp_path_factory):
    root = tmp_path_factory.mktemp("chexpert") / "CheXpert-v1.0-small"
    rng = np.random.default_rng(0)
    rows = []
    for patient in range(12):
        for view in range(1 + patient % 2):
            name = f"train/patient{patient:05}/study1/view{view + 1}_frontal.jpg"
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (50, 41), dtype=np.uint8)).save(root / name)
            rows.append(
                [f"CheXpert-v1.0-small/{name}", *(["", "0.0", "1.0", "-1.0"][(patient + k) % 4] for k in range(14))]
            )
    with open(root / "train.csv", "w", newline="") as file:
        csv.writer(file).writerows([["Path", *CHEXPERT_FINDINGS], *rows])
    return root.parent


def options_of(data, output, name="chest", weight="none"):
    return [
        "--phase", "finetune", "--data", data, "--output", output, "--lists", output.parent / "lists", "--n", name,
        "--d", 2, "--b", 4, "--ratio", 0.2, "--workers", 0, "--global_size", 64, "--lr", 1e-3, "--weight", weight,
    ]  # fmt: skip


def numbers_of(output):
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{k: line[k] for k in ("epoch", "total", "valid_loss", "best_epoch")} for line in lines]


def test_chest_from_weights_to_results_and_resumed_alike(nih, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("engine.run_state.SAVING_SHARE", math.inf)  # a state after each epoch
    weights = tmp_path / "encoder.pt"
    torch.manual_seed(5)
    encoder = build_classifier(dim=2, classes=1).encoder
    torch.save({"state_dict": encoder.state_dict()}, weights)
    whole, third = tmp_path / "whole", tmp_path / "third"
    status, error = run(monkeypatch, capsys, *options_of(nih, whole, weight=weights), "--epochs", 2)
    assert status == 0, error
    assert "of 120 entries matched" in error and "Hernia: no positives in the test split" in error
    results = json.loads((whole / "results.json").read_text())
    losses = [line["valid_loss"] for line in numbers_of(whole)]
    assert results["best_epoch"] == int(np.argmin(losses)) and results["valid_loss"] == min(losses)
    assert results["test_split"] == "chest_test.txt" and "Hernia" in results["without_auroc"]
    with open(whole / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    listed = [line.split()[0] for line in (tmp_path / "lists" / "chest_test.txt").read_text().splitlines()]
    assert [row["name"] for row in rows] == listed and len(rows) == results["test_images"]
    for name, found in results["auroc"].items():
        truth, scores = ([float(row[column]) for row in rows] for column in (f"label_{name}", name))
        assert found["value"] == pytest.approx(roc_auc_score(truth, scores), abs=0.02)
        assert found["low"] <= found["value"] <= found["high"]
    assert Image.open(whole / "roc.png").width > 100
    assert load_encoder_with_match(whole / "best.pt", dim=2)[1].matched == 120
    # Predicted from the files alone, by what the weights know, probabilities are the same.
    predicted = ["--phase", "predict", "--weight", whole / "best.pt", "--data", nih / "images"]
    status, error = run(monkeypatch, capsys, *predicted, "--workers", 0, "--output", tmp_path / "predicted")
    assert status == 0, error
    with open(tmp_path / "predicted" / "predictions.csv", newline="") as file:
        alone = {row["name"]: row for row in csv.DictReader(file)}
    assert len(alone) == len(list((nih / "images").iterdir()))
    # By the code of the run's card as well.
    card = run_card(whole, nih / "images" / rows[0]["name"], 2)
    expected = [float(rows[0][name]) for name in FINDINGS]
    np.testing.assert_allclose(card["probabilities"][0].numpy(), expected, atol=1e-5)
    for row in rows:
        got, expected = ([float(one[name]) for name in FINDINGS] for one in (alone[row["name"]], row))
        np.testing.assert_allclose(got, expected, atol=1e-5)
    # Thresholds are those of the best epoch's validation, for findings that it has with and without.
    best = (whole / "metrics.jsonl").read_text().splitlines()[results["best_epoch"]]
    thresholds = json.loads(best)["thresholds"]
    assert thresholds and all(0 < value < 1 for value in thresholds.values())
    for name in FINDINGS:
        expected = f"{thresholds[name]:.6f}".rstrip("0") if name in thresholds else ""
        assert {one[f"threshold_{name}"] for one in alone.values()} == {expected}
    # From the state after epoch 1, in another folder; the best weights come along in the state.
    resume = ["--epochs", 2, "--resume", whole / "state" / "previous.pt"]
    status, error = run(monkeypatch, capsys, *options_of(nih, third, weight=weights), *resume)
    assert status == 0, error
    assert numbers_of(third) == numbers_of(whole)[2:]
    assert json.loads((third / "results.json").read_text()) == results
    kept, moved = (torch.load(folder / "best.pt") for folder in (whole, third))
    assert {k: v for k, v in kept.items() if k != "state_dict"} == {k: v for k, v in moved.items() if k != "state_dict"}
    assert all(torch.equal(value, moved["state_dict"][name]) for name, value in kept["state_dict"].items())
    (whole / "predictions.csv").unlink()
    again = ["--epochs", 2, "--resume", "auto"]
    status, error = run(monkeypatch, capsys, *options_of(nih, whole, weight=weights), *again)
    assert status == 0 and "not evaluated again" in error and not (whole / "predictions.csv").exists()


def test_chexpert_holds_out_patients_and_ignores_the_uncertain(chexpert, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    options = [*options_of(chexpert, out, "chexpert"), "--epochs", 0, "--uncertain", "ignore"]
    status, error = run(monkeypatch, capsys, *options)
    assert status == 0, error
    results = json.loads((out / "results.json").read_text())
    assert results["test_split"] == "a fifth of the patients, held out" and results["test_patients"] == 2
    with open(out / "predictions.csv", newline="") as file:
        labels = [row[f"label_{name}"] for row in csv.DictReader(file) for name in CHEXPERT_FINDINGS]
    assert set(labels) == {"", "0", "1"}


def test_wrong_input_is_one_line(nih, tmp_path, monkeypatch, capsys):
    (tmp_path / "given").mkdir()
    names = [path.name for path in sorted((nih / "images").iterdir())]
    (tmp_path / "given" / "chest_train.txt").write_text("".join(name + "\n" for name in names))
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "images").symlink_to(nih / "images")
    (tmp_path / "broken.pt").write_text("no weights")
    for options, message in (
        (["--ratio", 1.0], "give a smaller --ratio"),
        (["--lists", tmp_path / "given", "--data", tmp_path / "bare"], "expected a name and 14 labels"),
        (["--weight", tmp_path / "broken.pt"], "broken.pt holds more than tensors"),
    ):
        status, error = run(monkeypatch, capsys, *options_of(nih, tmp_path / "out"), *options)
        lines = [line for line in error.splitlines() if "error:" in line]
        assert status == 1 and len(lines) == 1 and message in lines[0], error
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    status, error = run(monkeypatch, capsys, *options_of(nih, tmp_path / "out"))
    assert status == 1 and "requirements-downstream.txt" in error
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]


def test_no_patient_is_in_two_splits_and_all_images_are_in_one():
    names = [f"{i:08}_{k:03}.png" for i in range(40) for k in range(1 + i % 3)]
    patients = [chest_patient(name) for name in names]
    listed = Listed(names, patients)
    splits = split_by_patient(listed, seed=1)
    groups = [{chest_patient(name) for name in split} for split in splits]
    assert sorted(n for split in splits for n in split) == names
    assert sum(map(len, groups)) == 40 and [len(group) for group in groups] == [29, 3, 8]
    assert splits == split_by_patient(listed, seed=1) != split_by_patient(listed, seed=2)
    # A patient of the test list trains nowhere.
    splits = split_by_patient(listed, test=Listed(["00000001_007.png"], ["00000001"]), seed=1)
    assert splits.test == ["00000001_007.png"] and not any("00000001" in n for n in splits.train + splits.valid)
    with pytest.raises(UserError, match="--ratio"):
        split_by_patient(Listed(names[:3], patients[:3]), seed=1)
    assert chexpert_patient("train/patient00007/study2/view1_frontal.jpg") == "train/patient00007"


def test_a_validation_list_is_the_validation_split(capsys):
    listed = Listed([f"{patient}{k}" for patient in "abcdefghij" for k in range(2)], list("aabbccddeeffgghhiijj"))
    test, valid = Listed(["b0", "z0"], ["b", "z"]), Listed(["a1", "c0", "z1", "y0"], ["a", "c", "z", "y"])
    splits = split_by_patient(listed, test=test, valid=valid, seed=1)
    assert splits.test == ["b0", "z0"] and splits.valid == ["a1", "c0", "y0"]
    assert splits.train == [name for name in listed.names if name[0] not in "abc"]
    error = capsys.readouterr().err
    assert "validation list: 3 of 4 names of other patients, 1 of the test list's patients: left out (z1)\n" in error
    assert "test list: 18 of 20 names of other patients, 2 of its patients: left out (b0, b1)\n" in error
    assert "validation list: 14 of 18 names of other patients, 4 of its patients: left out (a0, a1, c0, c1)\n" in error
    # The test split that is held out leaves the validation list whole.
    for seed in range(9):
        splits = split_by_patient(listed, valid=valid, seed=seed)
        assert splits.valid == list(valid.names) and len({name[0] for name in splits.test}) == 2
        assert not {name[0] for name in splits.train} & {name[0] for name in (*splits.valid, *splits.test)}
    # The published lists of NIH have one file as both: patients are held out, as without a validation list.
    splits = split_by_patient(listed, test=test, valid=test, seed=1)
    assert splits == split_by_patient(listed, test=test, seed=1) and splits.valid
    assert "(b0, z0)" in (error := capsys.readouterr().err) and "a tenth of the patients are held out instead" in error


def test_what_pre_trained_does_not_fine_tune(nih, tmp_path):
    splits = open_classification(name="chest", root=nih, lists=ListFolders.at(tmp_path), ratio=0.5, seed=1, size=64)
    listed = [line.split()[0] for line in (tmp_path / "chest_train.txt").read_text().splitlines()]
    used, chosen = ([split.name(i) for i in range(len(split))] for split in (splits.train, splits.valid))
    assert used == listed[len(listed) // 2 :]
    assert chosen == [line.split()[0] for line in (tmp_path / "chest_valid.txt").read_text().splitlines()]
    truth = read_listed_labels(tmp_path / "chest_train.txt")
    for i in range(len(splits.train)):
        assert tuple(splits.train[i][1].tolist()) == truth[splits.train.name(i)]


@pytest.mark.parametrize(("uncertain", "value"), [("ones", 1.0), ("zeros", 0.0), ("ignore", NAN)])
def test_uncertain_labels(tmp_path, uncertain, value):
    (tmp_path / "train").mkdir()
    (tmp_path / "train.csv").write_text(
        ",".join(["Path", *CHEXPERT_FINDINGS]) + "\nCheXpert-v1.0/train/p/s/v.jpg,1.0,0.0,-1.0" + "," * 11 + "\n"
    )
    labels = read_chexpert_labels(tmp_path, uncertain=uncertain)
    np.testing.assert_equal(labels, {"train/p/s/v.jpg": (1.0, 0.0, value, *[0.0] * 11)})
    (tmp_path / "train.csv").write_text(",".join(["Path", *CHEXPERT_FINDINGS]) + "\nx,2" + "," * 13 + "\n")
    with pytest.raises(UserError, match="row 1"):
        read_chexpert_labels(tmp_path, uncertain=uncertain)


def test_loss_by_hand_and_unknown_labels_give_no_gradient():
    logits = torch.tensor([[0.0, 2.0], [1.0, -3.0]], requires_grad=True)
    loss = known_cross_entropy(logits, torch.tensor([[1.0, NAN], [0.0, 1.0]]))
    expected = (np.log(2) + np.log(1 + np.e) + np.log(1 + np.exp(3))) / 3
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    assert logits.grad[0, 1] == 0 and (logits.grad != 0).sum() == 3
    assert known_cross_entropy(logits, torch.full((2, 2), NAN)).item() == 0


def test_auroc_by_hand_and_against_scikit_learn(monkeypatch):
    scores, positive = np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True])
    # Pairs (positive, negative): 0.4 beats 0.1 and ties with 0.4, 0.8 beats both: 3.5 of 4.
    assert weighted_auroc(scores, positive, np.ones(4)) == 0.875
    rng = np.random.default_rng(0)
    scores, positive = np.sort(rng.integers(0, 20, 60)), rng.random(60) < 0.4
    weights = rng.integers(0, 3, 60)
    expected = roc_auc_score(positive, scores, sample_weight=weights)
    assert weighted_auroc(scores, positive, weights) == pytest.approx(expected)
    assert np.isnan(weighted_auroc(scores, positive, weights * positive))
    draws, columns, order = rng.integers(0, 3, (7, 15)), rng.integers(0, 15, 60), rng.permutation(60)
    expected = [roc_auc_score(positive, scores, sample_weight=draw[columns]) for draw in draws]
    monkeypatch.setattr("evaluation.metrics.BLOCK", 130)  # two resamples at once, and one alone
    found = resampled_aurocs(scores[order], positive[order], draws, columns[order])
    assert found.tolist() == pytest.approx(expected)


def test_classes_without_positives_or_negatives_are_named_and_unknown_labels_left_out():
    scores = np.array([[0.1, 0.2, 0.3], [0.9, 0.4, 0.5], [0.6, 0.1, 0.2], [0.2, 0.3, 0.1]])
    labels = np.array([[0, 0, 1], [1, 0, 1], [NAN, 0, NAN], [0, 0, 1]])
    found = auroc(scores, labels, ["a", "b", "c"], patients=list("pqrs"), seed=0, replicates=50)
    assert found.missing == {"b": "no positives", "c": "no negatives"}
    assert found.per_class.keys() == {"a"} and found.mean.value == 1.0
    assert auroc(scores, labels * 0, ["a", "b", "c"], patients=list("pqrs"), seed=0).mean is None


def test_intervals_are_over_patients():
    rng = np.random.default_rng(1)
    labels = (rng.random((30, 1)) < 0.5).astype(float)
    scores = rng.random((30, 1)) + 0.5 * labels
    alone = auroc(scores, labels, ["a"], patients=[str(i) for i in range(30)], seed=0).per_class["a"]
    # Each image ten times, with the same patients: the interval stays the same.
    repeated = [str(i) for i in range(30)] * 10
    many = auroc(np.tile(scores, (10, 1)), np.tile(labels, (10, 1)), ["a"], patients=repeated, seed=0).per_class["a"]
    assert alone.low < alone.value < alone.high and many.value == pytest.approx(alone.value)
    assert (many.low, many.high) == pytest.approx((alone.low, alone.high), abs=0.02)


def test_evaluation_reads_the_centre_and_training_random_boxes():
    image = torch.zeros(1, 256, 300, dtype=torch.uint8)
    image[:, 16:240, 38:262] = 200
    assert (central_square(image, 224) == 200).all() and central_square(image, 224).shape == (1, 224, 224)
    assert central_square(torch.zeros(1, 300, 50, dtype=torch.uint8), 64).shape == (1, 64, 64)
    pixels = torch.randint(0, 255, (3, 1, 40, 50), dtype=torch.uint8, generator=torch_generator("images"))
    batch = LabelledImages(pixels, torch.tensor([[40, 50]] * 3), torch.zeros(3, 2))
    first, second = (AugmentedInputs(32)(batch, torch_generator("views", step))[0] for step in (0, 1))
    assert first.shape == (3, 3, 32, 32) and not torch.equal(first, second)
    assert torch.equal(first, AugmentedInputs(32)(batch, torch_generator("views", 0))[0])


@pytest.mark.parametrize(("dim", "shape"), [(2, (2, 3, 64, 32)), (3, (2, 4, 16, 8, 24))])
def test_classifiers_of_both_dimensions(tmp_path, dim, shape):
    torch.manual_seed(0)
    source = build_classifier(dim=dim, classes=1)
    torch.save({"state_dict": source.encoder.state_dict()}, tmp_path / "x.pt")
    model = build_classifier(dim=dim, classes=5, weights=tmp_path / "x.pt", in_channels=shape[1])
    own, pretrained = model.encoder.state_dict(), source.encoder.state_dict()
    assert all(torch.equal(value, pretrained[name]) for name, value in own.items() if value.shape[1:2] != (4,))
    assert model(torch.rand(shape)).shape == (2, 5)
