"""The command lines that users type, what they mean, and how wrong ones end."""

import dataclasses
import math
import shlex
import sys
import tomllib

import pytest

from utils import option_table
from utils.errors import UsageError, UserError, run_command
from utils.options import DECLARED, build_parser, fixed_options, option_names, parse_options, plain

MAY_CHANGE = {name for name, declared in DECLARED.items() if declared.may_change}
NEEDED = ["--data", "D", "--output", "O"]
# The table of the published program, and ours beside it.
DEFAULTS = {
    "data": "D", "output": "O", "model": "pcrlv2", "phase": "pretask", "n": "luna", "d": 3, "b": 16, "epochs": 100,
    "lr": 1e-3, "optimizer": "sgd", "warmup_epochs": 0.0, "loss_weights": (1.0, 1.0, 1.0, 1.0), "momentum": 0.9,
    "weight_decay": 1e-4, "ratio": 0.8, "seed": 42, "amp": False, "test": True,
    "gpus": None, "device": None, "workers": 4, "encoder_weights": "imagenet", "weight": None,
    "spacing": None, "task": None, "labels": None, "uncertain": "ones", "crop": None, "norm": None, "skips": True,
    "classes": 0, "intensity": None, "views": None, "skip": None, "invert": False,
    "save_masks": False, "check": False, "init": None, "resume": None, "save_minutes": 10.0,
    "max_bad": 0.01, "lists": None, "global_size": 224, "local_size": 96, "cutout_size": 32, "swaps": 100,
    "image_size": 0, "cache": None, "cache_size": 512, "compile": False, "graph": False,
    "checkpoint_activations": False, "log_every": 20, "picture_every": 10,
    "probe_every": 0, "probe_images": 2000, "probe_neighbours": 20,
}  # fmt: skip
PUBLISHED = {
    "--data DIR --model pcrlv2 --b 64 --epochs 240 --lr 1e-2 --output DIR --n chest --d 2 --gpus 0,1,2,3 --ratio 1.0 "
    "--amp": {"b": 64, "epochs": 240, "lr": 0.01, "n": "chest", "d": 2},
    "--data DIR --model pcrlv2 --b 32 --epochs 240 --lr 1e-3 --output DIR --n luna  --d 3 --gpus 0,1,2,3 --ratio 1.0 "
    "--amp": {"b": 32, "epochs": 240, "lr": 0.001, "n": "luna", "d": 3},
}  # fmt: skip


def parse(line, needed=True):
    return parse_options([*(NEEDED if needed else []), *shlex.split(line)])


def refused(capsys, line, needed=True):
    """The last line that a wrong command line leaves on stderr."""
    with pytest.raises(SystemExit) as caught:
        parse(line, needed)
    assert caught.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err.splitlines()[-1]


@pytest.mark.parametrize("line", PUBLISHED)
def test_published_command_lines_mean_what_they_meant(line):
    values = parse(line, needed=False).as_dict()
    stored = {name: plain(value) for name, value in DEFAULTS.items()}
    expected = {**stored, "data": "DIR", "output": "DIR", "ratio": 1.0, "gpus": [0, 1, 2, 3], "amp": True}
    assert values == {**expected, **PUBLISHED[line]}


def test_defaults_are_the_published_ones_and_typed():
    values = dataclasses.asdict(parse(""))
    assert values == DEFAULTS and set(values) == set(DEFAULTS) == set(option_names())
    for name, value in values.items():
        assert type(value) is type(DEFAULTS[name]), name


def test_every_published_flag_is_typed():
    options = parse(
        "--momentum 0.5 --weight_decay 1e-3 --seed 7 --workers 0 --phase pretask --gpus 3,1 --ratio 1 --lr 1"
    )
    typed = (options.momentum, options.weight_decay, options.seed, options.workers, options.ratio, options.lr)
    assert typed == (0.5, 0.001, 7, 0, 1.0, 1.0)
    assert [type(value) for value in typed] == [float, float, int, int, float, float]
    assert options.gpus == (3, 1) and options.as_dict()["gpus"] == [3, 1]


def test_what_is_kept_is_chosen_once(capsys):
    assert "--checkpoint_activations goes without --compile" in refused(capsys, "--compile --checkpoint_activations")


def test_long_names_stand_beside_the_short_ones():
    assert parse("--batch_size 8 --dataset chexpert --dim 2") == parse("--b 8 --n chexpert --d 2")
    assert parse("--amp --no-amp") == parse("--no-amp") == parse("") != parse("--amp")
    assert parse("--compile").compile and not parse("--compile --no-compile").compile


def test_dashes_stand_for_underscores():
    assert parse("--batch-size 8 --weight-decay=0.5 --log-every 3") == parse("--b 8 --weight_decay=0.5 --log_every 3")
    tuned = "--phase finetune --n folder --weight none"
    assert parse(f"{tuned} --save-masks") == parse(f"{tuned} --save_masks") != parse(tuned)
    assert parse(f"{tuned} --no-save-masks") == parse(f"{tuned} --no_save_masks") == parse(tuned)


def test_a_tilde_is_home_in_every_path(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    options = parse("--data=~/x --output ~/y --lists=~ --init ~/i.pt --resume auto", needed=False)
    assert (options.data, options.output) == ("/home/somebody/x", "/home/somebody/y")
    assert (options.lists, options.init, options.resume) == ("/home/somebody", "/home/somebody/i.pt", "auto")
    tuned = parse("--phase finetune --n brats --weight ~/w.pt --cache=~/c")
    assert (tuned.weight, tuned.cache) == ("/home/somebody/w.pt", "/home/somebody/c")


def test_the_version_is_that_of_the_project(capsys):
    with pytest.raises(SystemExit) as caught:
        parse_options(["--version"])
    assert caught.value.code == 0
    declared = tomllib.loads((option_table.DOCUMENT.parents[1] / "pyproject.toml").read_text())["project"]["version"]
    assert capsys.readouterr().out.startswith(f"PCRLv2 {declared}")


def test_the_page_of_options_is_that_of_the_declarations():
    assert option_table.DOCUMENT.read_text() == option_table.document(), (
        "python -m utils.option_table > docs/options.md"
    )


def test_options_are_frozen_and_say_where_each_comes_from():
    options = parse("")
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.lr = 1.0
    actions = {action.dest: action for action in build_parser()._actions if action.dest not in ("help", "version")}
    assert set(actions) == set(option_names())
    assert all(action.help for action in actions.values())


def test_help_is_there(capsys):
    with pytest.raises(SystemExit) as caught:
        parse_options(["--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    for name in option_names():
        assert f"--{name}" in said


@pytest.mark.parametrize("line", ["--weigh x.pt", "--epoch 3", "--out x", "--work 3", "--am", "--no-am", "--batch 3"])
def test_prefixes_and_unknown_options_are_refused(capsys, line):
    assert f"unrecognized arguments: {line}" in refused(capsys, line)


def test_a_wrong_command_line_ends_in_one_line(capsys):
    for line in ("--lr x", "--unknown", "--n chest"):
        with pytest.raises(SystemExit):
            parse(line)
        said = capsys.readouterr().err
        assert said.startswith("main.py: error: ") and said.count("\n") == 1


def test_what_is_needed_is_said(capsys):
    assert "--output" in refused(capsys, "--data D", needed=False)
    assert "--data" in refused(capsys, "--output O", needed=False)


@pytest.mark.parametrize(("line", "expected"), [
    ("--n chest", "--n chest goes with --d 2, got --d 3"),
    ("--n chexpert --d 3", "--n chexpert goes with --d 2, got --d 3"),
    ("--n luna --d 2", "--n luna goes with --d 3, got --d 2"),
    ("--d 2", "--n luna goes with --d 3, got --d 2"),
])  # fmt: skip
def test_a_data_set_of_the_other_dimension_is_refused(capsys, line, expected):
    assert expected in refused(capsys, line)


@pytest.mark.parametrize(("line", "words"), [
    ("--d 4", "--d"), ("--n mnist", "--n"), ("--model moco", "--model"), ("--phase test", "--phase"),
    ("--b 0", "--b/--batch_size: expected a number from 1"), ("--b 3.5", "expected a number, got '3.5'"),
    ("--b -4", "--b"), ("--epochs -1", "--epochs: expected a number from 0"), ("--lr nan", "--lr"),
    ("--lr inf", "--lr"), ("--lr -1", "--lr"), ("--lr x", "--lr: expected a number, got 'x'"),
    ("--ratio 0", "--ratio: expected a number above 0 to 1, got 0"), ("--ratio 1.01", "--ratio"),
    ("--ratio nan", "--ratio"), ("--momentum 2", "--momentum"), ("--workers -1", "--workers"),
    ("--seed 1e3", "--seed"), ("--seed -1", "--seed"), ("--max_bad 1.5", "--max_bad"),
    ("--gpus 0,0", "--gpus: expected different indices"), ("--gpus 0,-1", "--gpus: expected different indices"),
    ("--gpus=-1", "--gpus: expected different indices"), ("--gpus 0,a", "--gpus: expected GPU indices such as 0,1"),
    ("--gpus ''", "--gpus: expected GPU indices"), ("--gpus 0,,1", "--gpus"), ("--log_every 0", "--log_every"),
    ("--encoder_weights x", "--encoder_weights"), (f"--b 1{'0' * 400}", "--b"), ("--amp yes", "yes"),
])  # fmt: skip
def test_wrong_values_are_refused_by_name(capsys, line, words):
    assert words in refused(capsys, line)


@pytest.mark.parametrize("name", ["global_size", "local_size"])
def test_2d_views_are_of_sizes_that_the_encoder_can_shrink(capsys, name):
    assert getattr(parse(f"--n chest --d 2 --{name} 64"), name) == 64
    assert "multiples of 32" in refused(capsys, f"--n chest --d 2 --{name} 100")
    error = refused(capsys, f"--n chest --d 2 --{name} 50")
    assert f"--{name}: expected multiples of 32, which the encoder shrinks by, got 50; give 32 or 64" in error
    assert f"--{name}: expected a number from 32" in refused(capsys, f"--n chest --d 2 --{name} 0")


@pytest.mark.parametrize("line", [
    "--global_size 128", "--local_size 64", "--image_size 512", "--cache x", "--cache_size 256",
    "--encoder_weights none",
])  # fmt: skip
def test_2d_options_are_refused_in_3d(capsys, line):
    assert f"{line.split()[0]} is for --d 2" in refused(capsys, line)
    assert parse(f"--n chest --d 2 {line}")


FINETUNE = "--phase finetune --n chest --d 2 --weight none"


@pytest.mark.parametrize("line", [
    "--momentum 0.5", "--weight_decay 0", "--encoder_weights none", "--init x.pt", "--local_size 64", "--cache x",
    "--cache_size 256", "--picture_every 3", "--warmup_epochs 1", "--loss_weights 1 0 1 1",
])  # fmt: skip
def test_options_of_pre_training_are_refused_in_fine_tuning(capsys, line):
    assert f"{line.split()[0]} is for --phase pretask" in refused(capsys, f"{FINETUNE} {line}")


@pytest.mark.parametrize(("line", "words"), [
    ("--n chest --d 2 --weight x.pt", "--weight is for --phase finetune"),
    ("--n chexpert --d 2 --uncertain zeros", "--uncertain is for --phase finetune"),
    (f"{FINETUNE} --uncertain zeros", "--uncertain is for --n chexpert"),
    ("--phase finetune --n chest --d 2", "expected --weight FILE, or --weight none"),
    ("--n luna --crop 8 8 8", "--crop is for --phase finetune"),
    ("--n chest --d 2 --swaps 3", "--swaps is for --d 3"),
    ("--n luna --no-skips", "--skips is for --phase finetune"),
    ("--n luna --norm gn", "--norm is for --phase finetune"),
    ("--n luna --no-test", "--test is for --phase finetune"),
    ("--phase probe --n brats --weight none", "--n brats is for --phase pretask or finetune"),
    ("--n folder --intensity ct", "--intensity: that of 3D pre-training is set by luna_preprocess.py"),
    (f"{FINETUNE} --save_masks", "--save_masks is for --n brats or lits or folder, got --n chest"),
    (f"{FINETUNE} --crop 8 8 8", "--crop is for --d 3"),
    ("--phase finetune --n luna --weight none --no-skips", "--skips is for --n brats or lits or folder"),
    ("--phase finetune --n luna --weight none --cache x", "--cache is for --phase pretask, or --n brats or lits"),
    ("--phase probe --n folder --d 2 --weight none --cache x", "--cache: probes of X-rays read them as they are"),
    ("--phase finetune --n brats --weight none --classes 3", "--classes is for --n folder, got --n brats"),
    ("--phase finetune --n lits --weight none --intensity ct", "--intensity is for --n folder, got --n lits"),
    ("--phase finetune --n lits --weight none --crop 16 20 16", "--crop: expected multiples of 8"),
    ("--phase finetune --n lits --weight none --crop 16 20 16", "got 20; give 16 or 24"),
    ("--phase finetune --n lits --weight none --crop 16 16", "--crop: expected 3 arguments"),
    ("--phase finetune --n lits --weight none --global_size 64", "--global_size is for --d 2"),
    ("--phase finetune --n folder --d 2 --weight none --norm gn", "--norm is for --d 3"),
    ("--phase finetune --n luna --weight none --task segmentation", "--task is for --n folder"),
    ("--phase finetune --n luna --weight none --spacing 2", "--spacing is for --n folder, got --n luna"),
    ("--n folder --spacing 2", "--spacing is for --phase finetune or probe or predict or features"),
    ("--phase probe --n folder --weight none --task classification", "--task is for --phase finetune or predict"),
    ("--phase finetune --n folder --d 2 --weight none --intensity ct", "--intensity ct is not for --d 2, give file or"),
    ("--phase finetune --n folder --weight none --intensity file", "--intensity file is not for --d 3, give minmax or"),
    ("--n folder --d 2 --views PA,,AP", "expected names such as PA,AP"),
    ("--n chest --d 2 --views PA", "--views is for --n folder, got --n chest"),
    ("--n chest --d 2 --invert", "--invert is for --n folder, got --n chest"),
    ("--n luna --skip FILE", "--skip is for --n chest or chexpert or folder or brats or lits, got --n luna"),
    ("--phase finetune --n brats --d 2 --weight none", "--n brats goes with --d 3, got --d 2"),
])  # fmt: skip
def test_options_of_fine_tuning_are_refused_where_they_mean_nothing(capsys, line, words):
    assert words in refused(capsys, line)


def test_fine_tuning_is_typed():
    options = parse(f"{FINETUNE} --weight x.pt --n chexpert --uncertain ignore --global_size 64 --image_size 512")
    assert (options.phase, options.weight, options.uncertain, options.n) == ("finetune", "x.pt", "ignore", "chexpert")
    options = parse("--phase finetune --n brats --weight none --crop 16 24 32 --norm in --no-skips --cache c --ratio 0")
    assert (options.crop, options.norm, options.skips, options.cache) == ((16, 24, 32), "in", False, "c")
    assert options.as_dict()["crop"] == [16, 24, 32] and options.ratio == 0
    options = parse("--phase finetune --n folder --weight none --classes 3 --intensity ct --save_masks")
    assert (options.classes, options.intensity, options.save_masks) == (3, "ct", True)


def test_options_that_contradict_each_other_are_refused(capsys):
    assert "--image_size" in refused(capsys, "--n chest --d 2 --cache x --image_size 300")
    assert "--momentum is for --optimizer sgd, got --optimizer adamw" in refused(
        capsys, "--optimizer adamw --momentum 0"
    )
    assert parse("--optimizer adamw --weight_decay 0.05").optimizer == "adamw"
    assert "--warmup_epochs: expected at most the run's 3, got 3.5" in refused(capsys, "--epochs 2 --warmup_epochs 3.5")
    assert "--loss_weights: expected a weight above 0" in refused(capsys, "--loss_weights 0 0 0 0")
    assert parse("--loss_weights 0 0.5 1 1").loss_weights == (0, 0.5, 1, 1)
    assert "--init starts a run" in refused(capsys, "--init a.pt --resume b.pt")
    options = parse("--init a.pt --resume auto")
    assert (options.init, options.resume) == ("a.pt", "auto")


def test_what_may_change_between_runs_is_a_part_of_the_options():
    assert set(option_names()) >= MAY_CHANGE
    must_stay = {"n", "d", "b", "epochs", "lr", "momentum", "weight_decay", "ratio", "seed", "amp", "global_size"}
    assert not must_stay & MAY_CHANGE


def test_fixed_options_differ_where_training_would():
    def fixed(line):
        return fixed_options(parse(f"--n chest --d 2 {line}"))

    assert set(fixed("")) == set(option_names()) - MAY_CHANGE
    for line in (
        "--data elsewhere --output elsewhere",
        "--workers 0 --gpus 0 --device cpu",
        "--resume auto --log_every 1",
    ):
        assert fixed(line) == fixed("")
    for line in (
        "--lr 0.5",
        "--b 8",
        "--optimizer adamw",
        "--seed 1",
        "--amp",
        "--ratio 0.5",
        "--epochs 7",
        "--local_size 64",
        "--cache x",
    ):
        assert fixed(line) != fixed("")
    assert fixed("--cache x") == fixed("--cache y")
    assert all(isinstance(value, str | int | float | bool | list | None) for value in fixed("").values())
    assert math.isclose(fixed("")["momentum"], 0.9)


@pytest.mark.parametrize(("raised", "status", "line"), [
    (UserError("--data: x is empty"), 1, "main.py: error: --data: x is empty\n"),
    (UsageError("--gpus: 9"), 2, "main.py: error: --gpus: 9\n"),
    (KeyboardInterrupt(), 130, "main.py: stopped by the keyboard\n"),
])  # fmt: skip
def test_errors_that_a_user_can_mend_are_one_line_and_a_status(monkeypatch, capsys, raised, status, line):
    def fail():
        raise raised

    monkeypatch.setattr(sys, "argv", ["/somewhere/main.py"])
    with pytest.raises(SystemExit) as caught:
        run_command(fail)
    assert caught.value.code == status and capsys.readouterr().err == line


@pytest.mark.parametrize(("returned", "status"), [(None, 0), (0, 0), (75, 75)])
def test_the_status_of_a_program_is_what_it_returns(returned, status):
    with pytest.raises(SystemExit) as caught:
        run_command(lambda: returned)
    assert caught.value.code == status


def test_bugs_keep_their_traceback():
    def bug():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command(bug)
