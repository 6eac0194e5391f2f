"""Comparisons of encoders: who gets which labels, what runs after what, and whether means and gains are right."""

import csv
import json
import os
import shutil
import signal
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from benchmarks.evidence import __main__ as program
from benchmarks.evidence import estimate, jobs, phantoms, run
from benchmarks.evidence.draws import prepare_lists
from benchmarks.evidence.estimate import describe_hours
from benchmarks.evidence.jobs import Pretraining, Readout, Supervised, all_jobs, is_done, pretraining_options
from benchmarks.evidence.report import draw_plot, table
from benchmarks.evidence.scores import Group, Replicates, Resampling, Row, read_metrics, summarize
from benchmarks.evidence.settings import PRESETS, YARDSTICKS, Arm, parse_arm
from benchmarks.evidence.yardstick import SimSiam, build_yardstick, require_lightly
from data.catalog.list_folders import SPLITS
from data.phantoms.dataset import make_xrays
from engine.precision import Precision
from evaluation.metrics import Estimate
from models.encoders import FEATURES
from tests.dicom_slices import write_series
from tests.scans import lung
from tests.toys import make_trainer
from utils.checkpoints import read_checkpoint
from utils.errors import UsageError, UserError

SMALL = [
    "--rates", "1e-4", "1e-3", "--steps", "2", "--common", "--global_size 32 --b 8 --workers 0", "--pretraining",
    "--local_size 32", "--finetuning", "--epochs 0",
]  # fmt: skip
FROZEN = [
    "--arms", "random", "floor", "ours=--lr 0.05 --loss_weights 1 1 0 0", "--labels", "30", "60",
    "--draws", "2", "--readouts", "linear", "knn", *SMALL,
]  # fmt: skip
TUNED = ["--arms", "random", "supervised", "--labels", "60", "--draws", "1", "--readouts", "finetuned", *SMALL]


@pytest.fixture(scope="module")
def xrays(tmp_path_factory):
    folder = tmp_path_factory.mktemp("xrays") / "data"
    make_xrays(folder, 60, 3, size=48)
    return folder


def compare(xrays, out, arguments):
    assert program.main(["--data", str(xrays), "--n", "chest", "--out", str(out), *arguments]) == 0
    return out


@pytest.fixture(scope="module")
def compared(xrays, tmp_path_factory):
    """A comparison of frozen encoders, as it is typed."""
    return compare(xrays, tmp_path_factory.mktemp("frozen"), FROZEN)


@pytest.fixture(scope="module")
def tuned(xrays, tmp_path_factory):
    """A comparison of fine-tuned encoders."""
    return compare(xrays, tmp_path_factory.mktemp("tuned"), TUNED)


def read_list(folder, split):
    return [line.split()[0] for line in (folder / f"chest_{split}.txt").read_text().splitlines()]


def test_draws_are_of_patients_nested_and_the_same_for_all_arms(compared):
    whole = {split: read_list(compared / "lists" / "all", split) for split in ("train", "valid", "test")}
    patients = {split: {name[:8] for name in names} for split, names in whole.items()}
    assert sum(map(len, whole.values())) == 60
    assert not patients["train"] & patients["valid"] and not (patients["train"] | patients["valid"]) & patients["test"]
    for draw in range(2):
        drawn = {p: read_list(compared / "lists" / f"{p}-{draw}", "train") for p in (30, 60)}
        assert set(drawn[30]) < set(drawn[60]) < set(whole["train"])
        for percent, names in drawn.items():
            chosen = {name[:8] for name in names}
            assert len(chosen) == -(-len(patients["train"]) * percent // 100)
            assert set(names) == {name for name in whole["train"] if name[:8] in chosen}
            for split in ("valid", "test"):
                assert read_list(compared / "lists" / f"{percent}-{draw}", split) == whole[split]
    assert read_list(compared / "lists" / "30-0", "train") != read_list(compared / "lists" / "30-1", "train")


def options_of(folder):
    return json.loads((folder / "run.json").read_text())["options"]


def test_runs_are_those_of_the_program_with_the_options_asked_for(compared, tuned):
    ours = options_of(compared / "encoders" / "ours-2")
    assert (ours["phase"], ours["lr"], ours["loss_weights"], ours["ratio"]) == ("pretask", 0.05, [1, 1, 0, 0], 1)
    assert (ours["encoder_weights"], ours["global_size"], ours["local_size"]) == ("none", 32, 32)
    assert options_of(compared / "readouts" / "random" / "frozen-30-1")["weight"] == "none"
    weight = options_of(compared / "readouts" / "ours-2" / "frozen-30-1")["weight"]
    assert weight.endswith("encoders/ours-2/pcrlv2_chest_pretask_1.0_0.pt")
    options = options_of(tuned / "readouts" / "supervised" / "finetuned-60-0")
    assert options["weight"].endswith("encoders/supervised/best.pt")
    assert options["seed"] == 0 and options["lists"].endswith("lists/60-0")


def test_rates_are_chosen_without_the_test_split(tuned):
    trials = sorted((tuned / "readouts" / "random").glob("finetuned-60-*-trial-*"))
    assert len(trials) == 2 and not any((trial / "results.json").exists() for trial in trials)
    assert not (tuned / "encoders" / "supervised" / "results.json").exists()
    losses = {}
    for trial in trials:
        losses.setdefault(trial.name.rpartition("-trial-")[2], []).append(jobs.best_valid_loss(trial))
    best = min(losses, key=lambda rate: sum(losses[rate]))
    assert options_of(tuned / "readouts" / "random" / "finetuned-60-0")["lr"] == float(best)


def test_only_the_weights_of_encoders_are_kept(compared, tuned):
    kept = {path.relative_to(folder).parts[0] for folder in (compared, tuned) for path in folder.rglob("*.pt")}
    assert kept == {"encoders"} and not list(compared.rglob("state"))


def test_the_report_holds_every_arm_with_its_gain(compared, tuned):
    frozen, finetuned = (json.loads((out / "evidence.json").read_text())["results"] for out in (compared, tuned))
    found = {(row["arm"], row["readout"], row["percent"]) for row in frozen}
    arms = ("random", "floor", "ours")
    assert found == {(arm, readout, percent) for arm in arms for readout in ("linear", "knn") for percent in (30, 60)}
    assert {(row["arm"], row["readout"]) for row in finetuned} == {("random", "finetuned"), ("supervised", "finetuned")}
    for row in (*frozen, *finetuned):
        assert (row["gain"] is None) == (row["arm"] == "random")
        assert row["draws"] == (1 if row["readout"] == "finetuned" else 2)
        assert row["mean"]["low"] <= row["mean"]["value"] <= row["mean"]["high"]
    shown = (compared / "evidence.md").read_text()
    assert shown.count("\n") == 2 + len({(r["metric"], r["readout"], r["arm"]) for r in frozen})
    assert (compared / "evidence.png").stat().st_size > 10_000


def test_a_comparison_goes_on_where_it_was_cut_short(compared, xrays, tmp_path, monkeypatch):
    out = tmp_path / "moved"
    shutil.copytree(compared, out)
    lost = out / "readouts" / "random" / "frozen-60-1"
    before = json.loads((lost / "results.json").read_text())
    shutil.rmtree(lost)
    compare(xrays, out, [*FROZEN, "--report"])
    assert not lost.exists()
    report = json.loads((out / "evidence.json").read_text())["results"]
    assert {r["draws"] for r in report if (r["arm"], r["percent"]) == ("random", 60)} == {1}
    done, run_job = [], run.run_job
    monkeypatch.setattr(run, "run_job", lambda job, it: done.append(job.folder(it)) or run_job(job, it))
    compare(xrays, out, FROZEN)
    after = json.loads((lost / "results.json").read_text())
    assert done == [lost] and (after["linear"], after["knn"]) == (before["linear"], before["knn"])
    for other, word in ((["--rates", "0.1"], "rates"), (["--arms", "ours=--lr 0.01"], "arm ours")):
        with pytest.raises(UsageError, match=f"holds a comparison of other settings .{word}; see"):
            compare(xrays, out, [*FROZEN, *other])
    done.clear()
    compare(xrays, out, [*FROZEN, "--arms", "random", "--labels", "30", "--draws", "3"])
    assert done == [out / "readouts" / "random" / "frozen-30-2"]


def test_a_run_that_fails_is_named_and_the_others_go_on(xrays, tmp_path, monkeypatch, capsys):
    def fail(options, world):
        raise UserError("no luck")

    monkeypatch.setattr(jobs, "pretrain", fail)
    arms = ["--arms", "random", "adamw", "--readouts", "knn", "--labels", "60", "--draws", "1"]
    with pytest.raises(UserError, match="1 runs failed, the first in .*adamw-2: no luck; start again"):
        compare(xrays, tmp_path, [*SMALL, *arms])
    results = json.loads((tmp_path / "evidence.json").read_text())["results"]
    assert {row["arm"] for row in results} == {"random"}


def test_a_wrong_option_of_a_run_fails_it_with_its_line_in_the_log(xrays, tmp_path):
    arms = ["--arms", "odd=--no_such_option 3", "--readouts", "knn", "--draws", "1"]
    with pytest.raises(UserError, match="1 runs failed, .*options are wrong, see .*odd-2/log.txt"):
        compare(xrays, tmp_path, [*SMALL, *arms])
    assert "--no_such_option" in (tmp_path / "encoders" / "odd-2" / "log.txt").read_text()


def test_jobs_wait_for_what_they_need(tmp_path, xrays):
    options = program.parse_arguments(["--data", str(xrays), "--n", "chest", "--out", str(tmp_path), *SMALL])
    settings = program.make_settings(options)
    order = all_jobs(settings)
    encoder = next(job for job in order if isinstance(job, Pretraining))
    readout = order[order.index(encoder) + 1]
    assert len(order) == len(set(order)) and readout.encoder() == encoder and not readout.ready(settings)
    folder = encoder.folder(settings)
    folder.mkdir(parents=True)
    (folder / jobs.DONE).write_text("{}")
    assert readout.ready(settings) and is_done(encoder, settings)
    tuned = Readout(Arm("random"), 0, "finetuned", 5, 1)
    assert not tuned.ready(settings) and len(tuned.trials(settings)) == 4
    assert Supervised().ready(settings)


def test_arms_are_typed(tmp_path):
    weight = tmp_path / "x.pt"
    weight.touch()
    assert parse_arm("random", 2) == Arm("random")
    assert parse_arm("no_local", 2) == Arm("no_local", options=("--loss_weights", "1", "1", "1", "0"))
    assert parse_arm("slow=--lr 1e-4 --b 8", 3) == Arm("slow", options=("--lr", "1e-4", "--b", "8"))
    assert parse_arm(f"theirs={weight}", 2) == Arm("theirs", weight=str(weight))
    for wrong in ("nothing", "a b=--lr 1", "theirs=/no/such.pt", "=--lr 1"):
        with pytest.raises(UsageError, match="--arms: expected"):
            parse_arm(wrong, 2)
    assert all(parse_arm(name, dim).options is not None for dim in (2, 3) for name in PRESETS[dim])
    assert [parse_arm("published", dim).options[-1] for dim in (2, 3)] == ["1e-2", "1e-3"]


def write_predictions(path, scores, labels):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "x", "label_x"])
        writer.writerows(zip([f"i{k}" for k in range(len(scores))], scores, labels, strict=True))


def test_metrics_of_resamples_equal_a_slow_reference(tmp_path):
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=40).round(1), rng.integers(0, 2, 40)
    write_predictions(tmp_path / "p.csv", scores, [*labels[:-1], ""])
    patients = {f"i{k}": f"p{k // 3}" for k in range(40)}
    resampling = Resampling(patients)
    value, resampled = read_metrics(tmp_path / "p.csv", resampling)["AUROC x"]
    assert value == pytest.approx(roc_auc_score(labels[:-1], scores[:-1]))
    for r in (0, 7, 999):
        weights = resampling.of(list(patients))[r]
        assert (weights.reshape(-1)[:39].reshape(13, 3) == weights[:39:3, None]).all()  # whole patients
        rows = np.repeat(np.arange(39), weights[:39])
        assert resampled[r] == pytest.approx(roc_auc_score(labels[rows], scores[rows]))


def test_dice_is_averaged_over_known_cases(tmp_path):
    (tmp_path / "p.csv").write_text("name,dice_liver,hd95_liver\na,0.5,3\nb,,1\nc,1.0,2\n")
    found = read_metrics(tmp_path / "p.csv", Resampling({"a": "1", "b": "2", "c": "3"}))
    assert set(found) == {"Dice liver"} and found["Dice liver"][0] == 0.75
    assert np.nanmin(found["Dice liver"][1]) == 0.5 and np.nanmax(found["Dice liver"][1]) == 1.0


def replicates(values, spread, shared, draws=None):
    draws = tuple(range(len(values))) if draws is None else draws
    return Replicates(draws, np.array(values), np.array(values)[:, None] + shared + spread)


def test_gains_are_paired_by_draw_and_by_resample():
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 0.1, (3, 1000))  # what a resample of the patients does to all arms alike
    groups = {
        Group("AUROC x", "random", 0, "knn", 5.0): replicates([0.5, 0.6, 0.7], 0, shared),
        Group("AUROC x", "ours", 9, "knn", 5.0): replicates([0.55, 0.65, 0.75], 0, shared),
        Group("AUROC x", "late", 9, "knn", 5.0): replicates([0.8], 0, shared[2:], draws=(2,)),
    }
    base, ours, late = summarize(groups)
    assert base.gain is None and base.mean.high - base.mean.low > 0.1
    assert ours.gain.value == pytest.approx(0.05)
    assert (ours.gain.low, ours.gain.high) == (pytest.approx(0.05), pytest.approx(0.05))
    assert late.gain.value == pytest.approx(0.1) and late.draws == 1  # against the draw that both have
    assert "| AUROC x | knn | ours | 9 | 0.650" in table([base, ours, late])


def test_draws_are_resampled_too():
    found = {Group("AUROC x", "random", 0, "knn", 5.0): replicates([0.5, 0.9], 0, np.zeros((2, 1000)))}
    (row,) = summarize(found)
    assert row.mean.value == pytest.approx(0.7) and (row.mean.low, row.mean.high) == (0.5, 0.9)


def test_the_paper_s_protocol_cuts_the_list_instead_of_drawing(xrays, tmp_path, monkeypatch):
    arguments = ["--protocol", "paper", "--labels", "30", "--draws", "1", "--arms", "adamw", *SMALL]
    typed = program.parse_arguments(["--data", str(xrays), "--n", "chest", "--out", str(tmp_path), *arguments])
    settings = program.make_settings(typed)
    prepare_lists(settings)
    pretraining, readout = (
        next(job for job in all_jobs(settings) if isinstance(job, k)) for k in (Pretraining, Readout)
    )
    options = pretraining_options(pretraining, settings)
    assert options.ratio == readout.ratio == 0.7 and options.lists == str(tmp_path / "lists" / "all")
    assert readout.encoder() == pretraining and pretraining.folder(settings).name == "adamw-2-0.7"
    assert len(read_list(tmp_path / "lists" / "all", "train")) == 45
    # 70 % of 45 images in batches of 8, for one epoch; a measured step takes some time.
    assert "1 pre-trainings of 3 steps together: about" in describe_hours(settings)
    assert 0 < estimate.seconds_per_sample(options, tmp_path) < 100
    monkeypatch.setattr(estimate, "seconds_per_sample", lambda *_: 450.0)
    assert "3 steps together: about 3.0 hours" in describe_hours(settings)


def test_without_data_it_compares_on_phantoms(tmp_path, monkeypatch):
    small = phantoms.PHANTOMS[2]._replace(size=40, common="--global_size 32 --b 8 --workers 0", finetuning="--epochs 0")
    monkeypatch.setitem(phantoms.PHANTOMS, 2, small)
    arguments = ["--out", str(tmp_path), "--readouts", "knn", "--steps", "1", "--labels", "50", "--draws", "1"]
    assert program.main([*arguments, "--arms", "random"]) == 0
    assert (tmp_path / "phantoms" / "Data_Entry_2017.csv").exists()
    assert json.loads((tmp_path / "evidence.json").read_text())["results"]


def test_data_and_its_name_are_typed_together(capsys):
    for arguments, words in ((["--n", "chest"], "--data: expected"), (["--data", "x"], "--n: expected")):
        with pytest.raises(SystemExit):
            program.parse_arguments(arguments)
        assert words in capsys.readouterr().err


def test_segmented_data_has_no_probes():
    assert program._readouts(None, "chest", classified=True) == ("linear", "knn", "finetuned")
    assert program._readouts(None, "brats", classified=False) == ("finetuned",)
    with pytest.raises(UsageError, match="--readouts: knn are for classification, --n lits is segmented"):
        program._readouts(["knn", "finetuned"], "lits", classified=False)


@pytest.mark.parametrize("wrong", [["--data", "{none}"], ["--d", "3"]])
def test_a_first_try_with_a_wrong_option_does_not_hold_the_folder(xrays, tmp_path, wrong):
    few = ["--arms", "random", "--readouts", "knn", "--labels", "60", "--draws", "1", *SMALL]
    wrong = [word.format(none=tmp_path / "none") for word in wrong]
    with pytest.raises((UserError, SystemExit)):
        program.main(["--data", str(xrays), "--n", "chest", "--out", str(tmp_path / "out"), *few, *wrong])
    out = compare(xrays, tmp_path / "out", few)
    # Now it does, and keeps what is there.
    with pytest.raises(UsageError, match="holds a comparison of other settings"):
        compare(xrays, out, [*few, "--rates", "1e-5"])
    options = program.parse_arguments(["--data", str(xrays), "--n", "chest", "--out", str(out), *few])
    with pytest.raises(UserError), program.claim(program.make_settings(options)):
        raise UserError("a draw of 2 patients has no images")
    assert (out / "lists" / "all" / "chest_train.txt").exists() and (out / "settings.json").exists()


def test_lists_that_are_no_comparison_s_are_kept(xrays, tmp_path):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "chest_train.txt").write_text("of a run in this folder\n")
    with pytest.raises(UserError):
        compare(tmp_path / "none", tmp_path, SMALL)
    assert (tmp_path / "lists" / "chest_train.txt").exists() and not (tmp_path / "settings.json").exists()


@pytest.mark.parametrize("n, d, reading, seen", [
    ("luna", 3, "--crop 32 32 16", {"crop": (32, 32, 16)}),
    ("chexpert", 2, "--global_size=96 --uncertain zeros", {"global_size": 96, "uncertain": "zeros"}),
    ("folder", 2, "--labels A,B --views PA --invert", {"labels": ("A", "B"), "views": ("PA",), "invert": True}),
])  # fmt: skip
def test_probes_read_the_data_as_fine_tuning_does(tmp_path, n, d, reading, seen):
    typed = ["--data", str(tmp_path), "--n", n, "--d", str(d), "--out", str(tmp_path), "--finetuning"]
    settings = program.make_settings(program.parse_arguments([*typed, f"--epochs 3 {reading} --no-test --lr 1e-3"]))
    for phase in ("probe", "finetune"):
        options = settings.options(phase, "--weight", "none", "--output", tmp_path)
        assert {name: getattr(options, name) for name in seen} == seen


def test_own_volumes_with_labels_are_compared_alike(tmp_path, capsys):
    """Names with blanks are found in all lists, and all arms read the labels and the volumes that were asked for."""
    root, out = tmp_path / "own", tmp_path / "out"
    for i in range(12):
        scan = lung((10, 18, 18), seed=i).clip(-1000)
        scan[2:8, 4:14, 4:14] = 60 * (i % 2)
        write_series(root / f"P {i}", scan, uid=f"1.2.{i}", extra=[(0x00100020, "LO", f"P{i}")])
    rows = [f"P {i},{i % 2},{12 - i}" for i in range(12)]
    (root / "labels.csv").write_text("\n".join(["file,mass,age", *rows]))
    (root / "test.txt").write_text("".join(f"P%20{i}\n" for i in range(4)))
    volumes = ["--data", str(root), "--n", "folder", "--d", "3", "--out", str(out)]
    reading = "--labels mass --crop 16 16 8 --intensity percentiles"
    few = ["--labels", "60", "--draws", "1", "--rates", "1e-3", "--common", "--b 4 --workers 0"]
    assert program.main([*volumes, "--arms", "random", "floor", "--finetuning", f"--epochs 0 {reading}", *few]) == 0
    rows = json.loads((out / "evidence.json").read_text())["results"]
    assert {(row["arm"], row["readout"]) for row in rows} == {
        ("random", "linear"), ("random", "knn"), ("random", "finetuned"), ("floor", "linear"), ("floor", "knn")
    }  # fmt: skip
    assert {row["metric"] for row in rows} == {"AUROC mass"}
    probed, tuned = (options_of(out / "readouts" / "random" / f"{kind}-60-0") for kind in ("frozen", "finetuned"))
    for options in (probed, tuned):
        assert (options["labels"], options["crop"]) == (["mass"], [16, 16, 8])
        assert (options["intensity"], options["spacing"]) == ("percentiles", 1.0)
    listed = [(out / "lists" / "all" / f"folder_{split}.txt").read_text().split() for split in SPLITS]
    assert sorted([*listed[0], *listed[1], *listed[2]]) == sorted(f"P%20{i}/1.2.{i}" for i in range(12))
    with pytest.raises(UsageError, match="--readouts: knn are for classification, --n folder is segmented"):
        program.make_settings(program.parse_arguments(
            [*volumes, "--readouts", "knn", "--finetuning", "--task segmentation"]
        ))  # fmt: skip


class Distance(nn.Module):
    """Stands in for the library's losses; neither is affected by the size of its inputs."""

    def forward(self, first, second):
        first, second = (nn.functional.normalize(part, dim=1) for part in (first, second))
        return ((first - second) ** 2).sum(dim=1).mean()


@pytest.fixture
def lightly(monkeypatch):
    """The library's names, with heads and a loss of torch alone."""
    loss, heads = ModuleType("lightly.loss"), ModuleType("lightly.models.modules.heads")
    loss.BarlowTwinsLoss = loss.NegativeCosineSimilarity = Distance
    heads.BarlowTwinsProjectionHead = lambda wide, hidden, out: nn.Linear(wide, out)
    heads.SimSiamProjectionHead = heads.SimSiamPredictionHead = heads.BarlowTwinsProjectionHead
    for module in (loss, heads):
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.parametrize("name", YARDSTICKS)
def test_a_yardstick_trains_the_same_encoder(name, lightly, xrays, tmp_path):
    job = Pretraining(parse_arm(name, 2), 8)
    typed = ["--data", str(xrays), "--n", "chest", "--out", str(tmp_path), "--labels", "60", "--draws", "1", *SMALL]
    settings = program.make_settings(program.parse_arguments(typed))
    prepare_lists(settings)
    job.folder(settings).mkdir(parents=True)
    job.run(settings)
    trained = read_checkpoint(job.weight(settings))["state_dict"]
    cpu = torch.device("cpu")
    options = pretraining_options(job, settings)
    start = build_yardstick(name, options, cpu, Precision.choose(cpu, amp=False)).model.encoder
    assert trained.keys() == start.state_dict().keys()
    assert not torch.equal(trained["conv1.weight"], start.state_dict()["conv1.weight"])
    numbers = [json.loads(line) for line in (job.folder(settings) / "metrics.jsonl").read_text().splitlines()]
    assert all(row["skipped_steps"] == 0 for row in numbers) and numbers[-1]["total"] < numbers[0]["total"]


def test_simsiam_predicts_the_projection_of_the_other_view(lightly):
    method = SimSiam()
    features = torch.randn(2, 3, FEATURES, generator=torch.Generator().manual_seed(0))
    (first, guess_of_second), (second, guess_of_first) = (method(view) for view in features)
    assert guess_of_second.requires_grad and not first.requires_grad
    loss = method.compare((first, guess_of_second), (second, guess_of_first))
    distance = Distance()
    expected = (distance(guess_of_second, second) + distance(guess_of_first, first)) / 2
    torch.testing.assert_close(loss, expected)
    assert not torch.isclose(loss, distance(guess_of_second, first))


def test_without_the_library_the_yardstick_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightly.loss", None)
    with pytest.raises(UserError, match="pip install lightly"):
        require_lightly()


def test_an_arm_has_one_colour_in_all_panels_of_the_plot(tmp_path, monkeypatch):
    """Though not all arms are in each: pixels are not fine-tuned."""
    from matplotlib.figure import Figure

    pages = []
    monkeypatch.setattr(Figure, "savefig", lambda page, *args, **options: pages.append(page))
    rows = [
        Row(Group("AUROC", arm, steps, readout, 5.0), one, None if arm == "random" else one, 2)
        for readout, steps_shown in (("linear", (250, 1000)), ("finetuned", (1000,)))
        for arm in ("random", "floor", "adamw", "published")
        for steps in (steps_shown if arm in ("adamw", "published") else (0,))
        for one in (Estimate(0.1 + steps / 1e4, 0.05, 0.2),)
        if (arm, readout) != ("floor", "finetuned")
    ]
    draw_plot(tmp_path / "plot.png", rows)
    (page,) = pages
    legend = {text.get_text(): line.get_color() for text, line in zip(
        page.legends[0].get_texts(), page.legends[0].get_lines(), strict=True
    )}  # fmt: skip
    assert legend.keys() == {"random", "floor", "adamw", "published"} and len(set(legend.values())) == 4
    linear, finetuned = page.axes
    for axes, arms in (
        (linear, {"random", "floor", "adamw", "published"}),
        (finetuned, {"random", "adamw", "published"}),
    ):
        colours = {line.get_label(): line.get_color() for line in axes.lines}
        assert colours == {arm: legend[arm] for arm in arms}
    # A single point shows its interval.
    (low, high), *_ = [path.vertices[:, 1] for path in finetuned.collections[0].get_paths()]
    assert (low, high) == (0.05, 0.2)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_stop_signal_between_trainings_stops_a_comparison(xrays, tmp_path, monkeypatch, capsys, name):
    """Also after a training, which records signals as long as it runs."""
    started = []

    def signalled(job, settings):
        started.append(job.folder(settings).name)
        if len(started) == 2:
            trainer = make_trainer(tmp_path / "toy", epochs=0)
            trainer.fit()
            os.kill(os.getpid(), getattr(signal, name))
        return ""

    monkeypatch.setattr(run, "run_job", signalled)
    monkeypatch.setattr(jobs.Readout, "ready", lambda *_: True)
    before = signal.getsignal(getattr(signal, name))
    status = program.main(["--data", str(xrays), "--n", "chest", "--out", str(tmp_path / "out"), *FROZEN])
    assert status == 75 and len(started) == 2
    assert f"stopped by {name}; start again with the same options to go on" in capsys.readouterr().err
    assert signal.getsignal(getattr(signal, name)) == before
