"""Probes of frozen features: as a command, during pre-training, and as functions of arrays."""

import csv
import json
import math
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from data.catalog.chest import FINDINGS
from data.catalog.labels import CHEXPERT_FINDINGS
from data.catalog.list_folders import ListFolders
from data.datasets.candidates import REPEATS, BalancedCubes
from data.datasets.classification import LabelledFiles, open_classification
from data.datasets.probe_subsets import eval_candidates, eval_images
from data.evaluation_loader import EvaluationLoader
from data.inputs import eval_inputs
from evaluation.epoch_probe import EpochProbe, require_labels
from evaluation.features import PooledFeatures
from evaluation.predictions import Predictions, gather_predictions, predict
from evaluation.probes import STRENGTHS, LinearProbe, choose_strength, knn_scores, missing_classes, probe_auroc
from evaluation.probes_report import run_probes
from models.classification import build_classifier
from models.encoders import build_encoder
from tests.programs import run
from tests.test_downstream.test_candidates import CUBE, made
from utils.errors import UserError

NAN = float("nan")
CPU = torch.device("cpu")
# Rare enough to have no positives in the training split, and in the test split.
NOWHERE, NOT_TESTED = FINDINGS.index("Hernia"), FINDINGS.index("Edema")


@pytest.fixture(scope="module")
def nih(tmp_path_factory):
    """48 images of 40 patients and lists with labels: those that show something bright are the positives of Mass."""
    root = tmp_path_factory.mktemp("nih")
    (root / "images").mkdir()
    (root / "lists").mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for i in range(48):
        name = f"{i % 40:08}_{i // 40:03}.png"
        labels = rng.integers(0, 2, 14)
        labels[NOWHERE] = 0
        labels[NOT_TESTED] *= i % 40 < 30
        pixels = rng.integers(0, 60, (44, 37 + i % 3), dtype=np.uint8)
        pixels[10:30, 10:30] += np.uint8(150 * labels[FINDINGS.index("Mass")])
        Image.fromarray(pixels).save(root / "images" / name)
        lines.append((i % 40, " ".join([name, *map(str, labels)])))
    for split, is_here in (("train", lambda p: p < 30), ("test", lambda p: p >= 30)):
        chosen = [line for patient, line in lines if is_here(patient)]
        (root / "lists" / f"chest_{split}.txt").write_text("\n".join(chosen) + "\n")
    return root


@pytest.fixture(scope="module")
def chexpert(tmp_path_factory):
    root = tmp_path_factory.mktemp("chexpert")
    rng = np.random.default_rng(0)
    rows = []
    for patient in range(30):
        name = f"train/patient{patient:05}/study1/view1_frontal.jpg"
        (root / name).parent.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 255, (40, 37), dtype=np.uint8)).save(root / name)
        rows.append([f"CheXpert-v1.0/{name}", *(["", "0.0", "1.0", "-1.0"][rng.integers(4)] for _ in range(14))])
    with open(root / "train.csv", "w", newline="") as file:
        csv.writer(file).writerows([["Path", *CHEXPERT_FINDINGS], *rows])
    return root


def probing(data, output, lists, name="chest"):
    return [
        "--phase", "probe", "--data", data, "--output", output, "--lists", lists, "--n", name, "--d", 2, "--b", 8,
        "--ratio", 0, "--workers", 0, "--global_size", 32, "--weight", "none", "--probe_neighbours", 5,
    ]  # fmt: skip


def pretraining(nih, output):
    return [
        "--data", nih, "--output", output, "--lists", nih / "lists", "--n", "chest", "--d", 2, "--b", 2, "--ratio",
        0.06, "--workers", 0, "--global_size", 64, "--local_size", 32, "--encoder_weights", "none", "--epochs", 2,
    ]  # fmt: skip


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def listed(nih, split):
    return [line.split()[0] for line in (nih / "lists" / f"chest_{split}.txt").read_text().splitlines()]


def features(values, labels):
    labels = np.asarray(labels, np.float32)
    return Predictions(list(range(len(labels))), np.asarray(values, np.float32), labels)


def clusters(seed, *, count=300, apart=6.0, shuffle=False):
    """Two classes, each the sign of a direction of its own, in 8 dimensions away from the origin."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (count, 2))
    values = rng.normal(size=(count, 8)) + 3
    values[:, :2] += apart * labels
    return features(values, rng.permuted(labels, axis=0) if shuffle else labels)


def test_from_images_to_results(nih, tmp_path, monkeypatch, capsys):
    out, weights = tmp_path / "out", tmp_path / "encoder.pt"
    torch.manual_seed(5)
    torch.save({"state_dict": build_classifier(dim=2, classes=1).encoder.state_dict()}, weights)
    options = [*probing(nih, out, nih / "lists"), "--weight", weights]
    status, error = run(monkeypatch, capsys, *options)
    assert status == 0 and "120 of 120 entries matched" in error, error
    assert error.count("Hernia: no positives in the training split, no AUROC") == 1
    assert error.count("Edema: no positives in the test split, no AUROC") == 1
    results = json.loads((out / "results.json").read_text())
    assert results["test_split"] == "chest_test.txt" and results["neighbours"] == 5
    used = results["train_images"] + results["valid_images"]
    assert used == len(listed(nih, "train")) and results["test_images"] == len(listed(nih, "test"))
    assert results["test_patients"] == 10 and results["strength"] in STRENGTHS
    for kind in ("knn", "linear"):
        rows = rows_of(out / f"predictions_{kind}.csv")
        assert [row["name"] for row in rows] == listed(nih, "test")
        found = results[kind]
        assert set(found["without_auroc"]) == {"Hernia", "Edema"} and len(found["auroc"]) == 12
        for name, value in found["auroc"].items():
            truth, scores = ([float(row[column]) for row in rows] for column in (f"label_{name}", name))
            assert value["value"] == pytest.approx(roc_auc_score(truth, scores))
            assert value["low"] <= value["value"] <= value["high"]
        # Even a random encoder separates bright from dark.
        assert found["auroc"]["Mass"]["value"] == 1.0
        assert Image.open(out / f"roc_{kind}.png").width > 100
    assert json.loads((out / "run.json").read_text())["match"] == "120 of 120 entries matched"
    status, error = run(monkeypatch, capsys, *options)
    assert status == 2 and "contains results.json" in error


def test_uncertain_labels_are_left_out(chexpert, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    options = [*probing(chexpert, out, tmp_path / "lists", "chexpert"), "--uncertain", "ignore"]
    status, error = run(monkeypatch, capsys, *options)
    assert status == 0 and "--weight none: from scratch" in error, error
    results = json.loads((out / "results.json").read_text())
    assert results["test_split"] == "a fifth of the patients, held out" and results["linear"]["mean_auroc"]
    labels = [row[f"label_{name}"] for row in rows_of(out / "predictions_knn.csv") for name in CHEXPERT_FINDINGS]
    assert set(labels) == {"", "0", "1"}


def test_candidates_in_3d(luna, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    status, error = run(
        monkeypatch, capsys, "--phase", "probe", "--data", luna, "--output", out, "--lists", tmp_path, "--n", "luna",
        "--b", 16, "--ratio", 0, "--workers", 0, "--weight", "none", "--crop", *CUBE,
    )  # fmt: skip
    assert status == 0, error
    results = json.loads((out / "results.json").read_text())
    assert results["test_split"] == "subset7 to subset9" and results["test_images"] == 14
    for kind in ("knn", "linear"):
        found = results[kind]["auroc"]["nodule"]
        assert (found["positives"], found["negatives"]) == (4, 10)
        assert sum(int(row["label_nodule"]) for row in rows_of(out / f"predictions_{kind}.csv")) == 4


def test_every_nodule_once_and_ten_times_as_many_false_positives():
    candidates = made([1, 0, 0, 1] + [0] * 61)
    plain = eval_candidates(BalancedCubes(candidates, {"s": "s.mhd"}, CUBE, seed=1))
    assert len(plain) == 2 + 2 * REPEATS and plain.candidates.labels.sum() == 2
    assert len(np.unique(plain.candidates.points, axis=0)) == len(plain)
    everything = {tuple(p): label for p, label in zip(candidates.points, candidates.labels, strict=True)}
    kept = zip(plain.candidates.points, plain.candidates.labels, strict=True)
    assert all(everything[tuple(point)] == label for point, label in kept)


def test_a_seeded_share_of_images_keeps_names_labels_and_patients(nih):
    split = open_classification(
        name="chest", root=nih, lists=ListFolders.at(nih / "lists"), ratio=0, seed=1, size=32
    ).train
    fewer, again, other = (eval_images(split, 32, at_most=9, seed=seed) for seed in (1, 1, 2))
    assert len(fewer) == 9 and fewer.fingerprint == again.fingerprint != other.fingerprint
    place = {split.name(i): i for i in range(len(split))}
    for i in range(9):
        whole = place[fewer.name(i)]
        assert torch.equal(fewer[i][1], split[whole][1]) and fewer.patients[i] == split.patients[whole]
        assert fewer[i][0].shape == (1, 32, 32) != split[whole][0].shape
    assert [eval_images(split, 32).name(i) for i in range(len(split))] == [split.name(i) for i in range(len(split))]


def lines_of(output):
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def assert_same(a, b):
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    else:
        assert a == b


def test_probes_do_not_affect_pre_training(nih, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("engine.curves.write_curves", lambda lines, path: None)  # slow
    monkeypatch.setattr("engine.run_state.SAVING_SHARE", math.inf)  # a state after each epoch
    seen = set()
    read = LabelledFiles.__getitem__
    monkeypatch.setattr(LabelledFiles, "__getitem__", lambda files, i: seen.add(files.name(i)) or read(files, i))
    plain, probed, third = (tmp_path / name for name in ("plain", "probed", "third"))
    status, error = run(monkeypatch, capsys, *pretraining(nih, plain))
    assert status == 0 and not seen, error
    probes = ["--probe_every", 3, "--probe_images", 20, "--probe_neighbours", 3]
    status, error = run(monkeypatch, capsys, *pretraining(nih, probed), *probes)
    assert status == 0, error
    # From the state after epoch 1 on.
    resume = ["--resume", probed / "state" / "previous.pt"]
    assert run(monkeypatch, capsys, *pretraining(nih, third), *probes, *resume)[0] == 0
    states = [torch.load(folder / "state" / "last.pt") for folder in (plain, probed, third)]
    for state in states[1:]:
        for name in ("model", "optimizer", "epoch_meter"):
            assert_same(state[name], states[0][name])
    # Every third epoch and the last.
    names = ("probe/knn_auroc", "probe/linear_auroc")
    found = {line["epoch"]: [line[name] for name in names] for line in lines_of(probed) if names[0] in line}
    assert set(found) == {0, 2} and all(0 <= value <= 1 for values in found.values() for value in values)
    assert [[line[name] for name in names] for line in lines_of(third)] == [found[2]]
    assert not any(name in line for line in lines_of(plain) for name in names)
    board = EventAccumulator(str(probed / "tensorboard")).Reload()
    for place, name in enumerate(names):
        written = {event.step: event.value for event in board.Scalars(name)}
        assert written == {epoch: pytest.approx(values[place]) for epoch, values in found.items()}
    # Images that pre-train are not probed if the list has others, and the test split is never read.
    assert len(seen) <= 20 and seen <= set(listed(nih, "train")[2:])


class Backbone(nn.Module):
    """An encoder with everything that extraction of features could change."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5))
        self.frozen = nn.BatchNorm2d(6).eval()

    def forward(self, x):
        return [x, self.frozen(self.body(x))]


def test_extraction_leaves_everything_as_it_was(nih):
    split = open_classification(
        name="chest", root=nih, lists=ListFolders.at(nih / "lists"), ratio=0, seed=1, size=32
    ).test
    module = PooledFeatures(Backbone())
    before = {name: value.clone() for name, value in module.state_dict().items()}
    torch.manual_seed(3)
    random_state = torch.get_rng_state()
    batches = EvaluationLoader(split, batch_size=3, workers=1)
    found, again = (predict(module, batches, eval_inputs, CPU) for _ in range(2))
    assert found.indices == list(range(len(split))) and found.values.shape == (len(split), 6)
    assert np.array_equal(found.values, again.values) and np.array_equal(found.labels, split.labels.numpy())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert_same(before, dict(module.state_dict()))
    assert module.training and module.encoder.body[1].training and not module.encoder.frozen.training
    # As inference sees one image, the others of its batch change nothing.
    (_, batch), inputs = next(iter(batches)), module.eval()
    alone = inputs(eval_inputs(batch)[0][1:2])[0]
    torch.testing.assert_close(alone, torch.from_numpy(found.values[1]))


def test_features_are_what_a_classifier_is_given():
    torch.manual_seed(0)
    classifier = build_classifier(dim=3, classes=2).eval()
    seen = []
    classifier.head.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    x = torch.rand(2, 1, 16, 8, 24)
    classifier(x)
    assert torch.equal(PooledFeatures(classifier.encoder).eval()(x), seen[0])
    assert PooledFeatures(build_encoder(2, 3))(torch.rand(2, 3, 64, 32)).shape == (2, 512)


def test_shares_of_several_processes_come_in_order(monkeypatch):
    whole = clusters(0, count=7)
    shares = [Predictions(list(range(r, 7, 2)), whole.values[r::2], whole.labels[r::2]) for r in (1, 0)]
    nothing = Predictions.join([])
    monkeypatch.setattr("evaluation.predictions.gather", lambda own: [own, *shares, nothing])
    joined = gather_predictions(nothing, split="test", name=str)
    assert joined.indices == list(range(7)) and np.array_equal(joined.values, whole.values)
    assert np.array_equal(joined.labels, whole.labels)


def test_outputs_that_are_of_no_use_are_one_line():
    with pytest.raises(UserError, match="outputs for the valid split, got none: it has no readable sample"):
        gather_predictions(Predictions.join([]), split="valid", name=str)
    broken = clusters(0, count=4)
    broken.values[2, 1] = np.inf
    broken.values[3] = np.nan
    with pytest.raises(UserError, match=r"finite outputs for the test split, got others for 2 of 4 .*, the first n2;"):
        gather_predictions(broken, split="test", name=lambda index: f"n{index}")


def test_neighbours_by_hand():
    # Angles of 0, 10, 40 and 90 degrees, at lengths that a distance would rank otherwise.
    angles, lengths = np.radians([0, 10, 40, 90]), np.array([9.0, 0.1, 1.0, 1.0])
    values = lengths[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    train = features(values, [[1, 1, NAN], [0, NAN, NAN], [1, 0, NAN], [1, 0, NAN]])
    asked = np.array([[1.0, 0.1], [0.1, 2.0]])  # 6 and 87 degrees
    scores = knn_scores(train, asked, neighbours=2)
    # Of the second class the label at 10 degrees is unknown, of the third all are.
    assert np.array_equal(scores, [[0.5, 0.5, 0], [1, 0, 0]])
    assert np.array_equal(knn_scores(train, asked, neighbours=99)[:, 0], [0.75, 0.75])


@pytest.mark.parametrize("shuffle", [False, True])
def test_separable_features_are_told_apart_and_shuffled_labels_are_not(shuffle):
    train, test = clusters(1, shuffle=shuffle), clusters(2, count=600, shuffle=shuffle)
    for scores in (
        knn_scores(train, test.values, neighbours=20),
        LinearProbe(train).fit(1e-2).scores(test.values),
    ):
        found = probe_auroc(scores, test, ["a", "b"], [str(i) for i in test.indices], {}, replicates=50)
        values = [estimate.value for estimate in found.per_class.values()]
        if shuffle:
            assert all(0.4 < value < 0.6 for value in values)
        else:
            assert min(values) > 0.999 and found.mean.low > 0.99


@pytest.mark.parametrize("shuffled", ["train", "valid", "test"])
def test_every_split_has_its_own_use(tmp_path, shuffled):
    splits = ("train", "valid", "test")
    found = {split: clusters(i, count=200 + i, shuffle=split == shuffled) for i, split in enumerate(splits)}
    patients = {split: [str(i) for i in features.indices] for split, features in found.items()}
    results = run_probes(found, ["a", "b"], patients, neighbours=1, name=str, seed=0, output=tmp_path)
    assert [results[f"{split}_images"] for split in splits] == [200, 201, 202]
    for kind in ("knn", "linear"):
        mean, valid = results[kind]["mean_auroc"]["value"], results["valid_mean_auroc"][kind]
        valid = valid if kind == "knn" else max(valid.values())
        # Little is learnt from shuffled labels; shuffled labels to score on affect only their own split.
        assert (mean > 0.95) == (shuffled == "valid") and (valid > 0.95) == (shuffled == "test")


def test_the_linear_probe_is_a_regression_on_the_known_labels():
    train = clusters(3, count=80, apart=1.0)
    train.labels[::4, 0] = NAN
    train.labels[:, 1] = 1
    known = ~np.isnan(train.labels[:, 0])
    scores = LinearProbe(train).fit(0.1).scores(train.values)
    scaled = (train.values - train.values.mean(0)) / train.values.std(0)
    model = LogisticRegression(C=0.1, max_iter=1000).fit(scaled[known], train.labels[known, 0])
    np.testing.assert_allclose(scores[:, 0], model.predict_proba(scaled)[:, 1], atol=1e-3)
    assert (scores[:, 1] == 1).all()  # the only label in training
    assert missing_classes(train.labels, ["a", "b"]) == {"b": "no negatives in the training split"}


@pytest.mark.parametrize(("before", "strength"), [(0.1, 1.0), (1.0, 1e-4)])
def test_what_was_fitted_before_makes_no_difference(before, strength):
    train = clusters(7, count=2000, apart=0.5)
    after = LinearProbe(train).fit(before).fit(strength).scores(train.values)
    np.testing.assert_allclose(after, LinearProbe(train).fit(strength).scores(train.values), atol=2e-5)


def test_the_strength_is_the_best_on_the_validation_split_and_else_the_strongest():
    rng = np.random.default_rng(0)
    wide = [rng.normal(size=(n, 60)) for n in (90, 300)]
    train, valid = (features(x, (x[:, :1] + rng.normal(size=(len(x), 1)) > 0)) for x in wide)
    patients = [str(i) for i in valid.indices]
    probe = LinearProbe(train)
    best, tried = choose_strength(probe, valid, ["a"], patients, {})
    assert tried[f"{best:g}"] == max(tried.values()) > min(tried.values()) and len(tried) == len(STRENGTHS)
    chosen = probe_auroc(probe.scores(valid.values), valid, ["a"], patients, {}).mean
    assert chosen.value == pytest.approx(tried[f"{best:g}"], abs=1e-3)
    alike = clusters(4, count=60, apart=50.0)
    patients = [str(i) for i in alike.indices]
    assert choose_strength(LinearProbe(alike), alike, ["a", "b"], patients, {})[0] == min(STRENGTHS)
    unknown = alike._replace(labels=alike.labels * NAN)
    best, tried = choose_strength(LinearProbe(alike), unknown, ["a", "b"], patients, {})
    assert best == min(STRENGTHS) and set(tried.values()) == {None}


def test_classes_that_cannot_be_learnt_or_scored_are_named():
    test = clusters(5, count=40)
    test.labels[:, 1] = 0
    missing = {"a": "no positives in the training split"}
    found = probe_auroc(np.zeros((40, 2)), test, ["a", "b"], ["p"] * 40, missing)
    assert found.mean is None and found.missing == {**missing, "b": "no positives"}


def made_probe(module, **changed):
    data = clusters(6, count=12)
    batch = [(data.indices, (torch.from_numpy(data.values), torch.from_numpy(data.labels)))]
    settings = {
        "train": batch, "valid": batch, "make_inputs": tuple, "device": CPU, "classes": ["a", "b"],
        "patients": [str(i) for i in data.indices], "neighbours": 3, "every": 3, "epochs": 7,
    }  # fmt: skip
    return EpochProbe(module, **{**settings, **changed})


def test_when_a_probe_is_due_and_its_numbers(capsys):
    probe = made_probe(nn.Identity())
    assert [epoch for epoch in range(8) if probe(epoch)] == [0, 3, 6, 7]
    assert probe(0).keys() == {"probe/knn_auroc", "probe/linear_auroc"} and probe(0)["probe/linear_auroc"] == 1
    data = clusters(6, count=12)
    one_kind = [(data.indices, (torch.from_numpy(data.values), torch.ones(12, 2)))]
    assert made_probe(nn.Identity(), valid=one_kind)(0) == {} == made_probe(nn.Identity(), train=one_kind)(0)
    assert capsys.readouterr().err == ""


def test_a_diverged_network_and_missing_images_do_not_end_pre_training(capsys):
    class Diverged(nn.Module):
        def forward(self, x):
            return x * torch.inf

    for probe in (made_probe(Diverged()), made_probe(nn.Identity(), valid=[])):
        assert probe(3) == {}
        assert capsys.readouterr().err.startswith("epoch 3: no probe")


def test_a_probe_needs_a_class_with_both_labels():
    both, zeros = np.array([[0, 1], [1, 0]]), np.zeros((2, 2))
    require_labels(both, np.array([[0, 0], [0, 1]]))
    for train, valid in ((zeros, both), (both, zeros), ([[0, 0], [0, 1]], [[0, 0], [1, 0]])):
        with pytest.raises(UserError, match="give a larger --probe_images"):
            require_labels(np.array(train), np.array(valid))


PROBE = "--phase probe --n chest --d 2 --weight none"


@pytest.mark.parametrize(("line", "words"), [
    ("--phase probe --n chest --d 2", "--phase probe: expected --weight FILE, or --weight none for a random encoder"),
    (f"{PROBE} --epochs 3", "--epochs is for --phase pretask or finetune"),
    (f"{PROBE} --resume auto", "--resume is for --phase pretask or finetune"),
    (f"{PROBE} --lr 1", "--lr is for --phase pretask or finetune"),
    (f"{PROBE} --cache x", "--cache is for --phase pretask"),
    (f"{PROBE} --probe_every 2", "--probe_every is for --phase pretask"),
    (f"{PROBE} --uncertain zeros", "--uncertain is for --n chexpert"),
    (f"{PROBE} --probe_neighbours 0", "--probe_neighbours: expected a number from 1"),
    ("--phase probe --n brats --weight none", "--n brats is for --phase pretask or finetune"),
    ("--phase finetune --n luna --weight none --probe_neighbours 3", "is for --phase pretask or probe"),
    ("--n luna --probe_every 1", "--probe_every is for --n chest or chexpert or folder, got --n luna"),
    ("--n chest --d 2 --probe_images 9", "--probe_images goes with --probe_every"),
    ("--n chest --d 2 --probe_neighbours 9", "--probe_neighbours goes with --probe_every"),
    ("--n chexpert --d 2 --uncertain zeros", "--uncertain is for --phase finetune or probe"),
    ("--n chest --d 2 --weight none --probe_every 1", "--weight is for --phase finetune or probe"),
])  # fmt: skip
def test_options_that_mean_nothing_are_refused(tmp_path, monkeypatch, capsys, line, words):
    status, error = run(monkeypatch, capsys, "--data", tmp_path, "--output", tmp_path / "out", *line.split())
    assert status == 2 and words in error and error.count("\n") == 1, error


def test_uncertain_labels_are_an_option_of_pre_training_that_probes(tmp_path, monkeypatch, capsys):
    line = "--n chexpert --d 2 --probe_every 1 --uncertain zeros"
    status, error = run(monkeypatch, capsys, "--data", tmp_path / "none", "--output", tmp_path / "out", *line.split())
    assert status == 1 and "--data: expected a folder" in error


def test_missing_labels_and_packages_are_one_line_at_the_start(nih, tmp_path, monkeypatch, capsys):
    (tmp_path / "bare").mkdir()
    names = listed(nih, "train")
    (tmp_path / "bare" / "chest_train.txt").write_text("".join(name + "\n" for name in names))
    every, bare, out = ["--probe_every", 1], ["--lists", tmp_path / "bare"], tmp_path / "out"
    for options, message in (
        ([*pretraining(nih, out), *every, *bare], "--probe_every: "),
        ([*probing(nih, out, nih / "lists"), *bare], "is for pre-training only"),
        ([*probing(nih, out, nih / "lists"), "--weight", tmp_path / "no.pt"], "expected a checkpoint file"),
    ):
        status, error = run(monkeypatch, capsys, *options)
        lines = [line for line in error.splitlines() if "error:" in line]
        assert status == 1 and len(lines) == 1 and message in lines[0] and "Traceback" not in error, error
        assert not (out / "run.json").exists()
    monkeypatch.setitem(sys.modules, "sklearn.neighbors", None)
    for options in ([*pretraining(nih, tmp_path / "a"), *every], probing(nih, tmp_path / "b", nih / "lists")):
        status, error = run(monkeypatch, capsys, *options)
        last = error.splitlines()[-1]
        assert status == 1 and "requirements-downstream.txt" in last and "Traceback" not in error
    assert not list(tmp_path.glob("[ab]/run.json")) and not list(tmp_path.glob("[ab]/state"))


def test_a_folder_of_another_run_is_left_alone(nih, tmp_path, monkeypatch, capsys):
    (tmp_path / "state").mkdir()
    status, error = run(monkeypatch, capsys, *probing(nih, tmp_path, nih / "lists"))
    assert status == 2 and "contains state of another run" in error and not (tmp_path / "run.json").exists()
