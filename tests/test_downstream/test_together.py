"""Fine-tuning by several processes tests every sample once, with the same results as a single process."""

import csv
import json
import shutil

import pytest
import torch

from data.catalog.list_folders import ListFolders
from data.datasets.segmentation import open_segmentation
from models.classification import build_classifier
from models.segmentation import build_segmenter
from tests.masked_images import make_masked_images
from tests.processes import run_together
from tests.programs import run


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    return make_masked_images(tmp_path_factory.mktemp("flat"))


def options_of(data, output, name, *more):
    return [
        "--phase", "finetune", "--data", data, "--output", output, "--lists", output.parent / "lists", "--n", name,
        "--d", 2, "--b", 4, "--ratio", 0, "--workers", 0, "--global_size", 64, "--lr", 1e-3, "--weight", "none",
        "--epochs", 0, *more,
    ]  # fmt: skip


def rows_of(output):
    with open(output / "predictions.csv", newline="") as file:
        return {row.pop("name"): [float(x) if x else None for x in row.values()] for row in csv.DictReader(file)}


def numbers_in(results, at=""):
    """Every number of a nested dict, by where it is."""
    if isinstance(results, dict):
        return {where: x for key, value in results.items() for where, x in numbers_in(value, f"{at}/{key}").items()}
    return {at: results} if isinstance(results, int | float) else {}


def names_to_test(flat, lists):
    splits = open_segmentation(
        name="folder", root=flat, lists=ListFolders.at(lists), ratio=0, seed=42, dim=2, crop=(64, 64), classes=2
    )
    return [case.name for case in splits.test.cases]


def check_alike(one, two):
    """The same names in the same order, and the same numbers but for rounding: batches differ in size."""
    assert list(rows_of(one)) == list(rows_of(two))
    for name, row in rows_of(one).items():
        assert row == pytest.approx(rows_of(two)[name], abs=1e-5)
    found = [json.loads((folder / "results.json").read_text()) for folder in (one, two)]
    assert numbers_in(found[0]) == pytest.approx(numbers_in(found[1]), rel=1e-4, abs=1e-5)
    assert found[0]["test_split"] == found[1]["test_split"]


def finetune_together(tmp_path, options):
    """Two processes into ``two``; (folder of a single process, ``two``, what the first process printed)."""
    one, two = tmp_path / "one", tmp_path / "two"
    statuses, printed = run_together(options(two), tmp_path)
    assert statuses == [0, 0], printed
    first, second = ([line for line in text.splitlines() if not line.startswith("made ")] for text in printed)
    assert any(line.startswith("epoch 0:") for line in first) and not second, "only the first process prints"
    return one, two, printed[0]


def test_chest(nih, tmp_path, monkeypatch, capsys):
    one, two, printed = finetune_together(tmp_path, lambda output: options_of(nih, output, "chest"))
    listed = [line.split()[0] for line in (tmp_path / "lists" / "chest_test.txt").read_text().splitlines()]
    assert list(rows_of(two)) == listed and printed.count("test: mean AUROC") == 1
    resume = ["--resume", two / "state" / "last.pt"]
    status, error = run(monkeypatch, capsys, *options_of(nih, one, "chest"), *resume)
    assert status == 0 and "epoch" not in error.replace("the epoch", ""), error
    check_alike(one, two)


def test_segmentation(flat, tmp_path, monkeypatch, capsys):
    one, two, printed = finetune_together(tmp_path, lambda output: options_of(flat, output, "folder", "--save_masks"))
    assert len(rows_of(two)) == 2 and printed.count("test: Dice of class_1") == 1
    assert sorted(path.stem for path in (two / "masks").iterdir()) == sorted(rows_of(two))
    resume = ["--resume", two / "state" / "last.pt"]
    status, error = run(monkeypatch, capsys, *options_of(flat, one, "folder", "--save_masks"), *resume)
    assert status == 0, error
    check_alike(one, two)
    for path in (one / "masks").iterdir():
        assert path.read_bytes() == (two / "masks" / path.name).read_bytes()
    again = tmp_path / "again"
    again.mkdir()
    statuses, printed = run_together(options_of(flat, two, "folder", "--save_masks", "--resume", "auto"), again)
    assert statuses == [0, 0] and printed[0].count("not evaluated again") == 1 and not printed[1], printed


def test_an_error_of_one_process_is_reported_once(flat, tmp_path):
    broken = shutil.copytree(flat, tmp_path / "broken")
    options = options_of(broken, tmp_path / "out", "folder", "--classes", 2)
    first = names_to_test(broken, tmp_path)[0]
    (broken / "images" / f"{first}.png").write_bytes(b"no image")
    statuses, printed = run_together(options, tmp_path)
    ends = [[line for line in text.splitlines() if line.startswith("main: ")] for text in printed]
    assert statuses == [1, 1] and [len(lines) for lines in ends] == [1, 1], printed
    assert "--max_bad: 1 of 2 samples to evaluate are broken" in ends[0][0] and "larger --max_bad" in ends[0][0]
    message = "another process of this run has ended; see its error message, unless it was killed"
    assert ends[1] == [f"main: UserError: {message}"]
    assert not (tmp_path / "out" / "results.json").exists()


@pytest.mark.parametrize(("dim", "shape"), [(2, (2, 3, 64, 32)), (3, (2, 1, 8, 16, 8))])
def test_every_step_gives_every_parameter_a_gradient(dim, shape):
    """DistributedDataParallel relies on it, since it is not asked to find unused parameters."""
    segmenters = [build_segmenter(dim=dim, regions=2, in_channels=shape[1], skips=skips) for skips in (True, False)]
    for model in (build_classifier(dim=dim, classes=3), *segmenters):
        model(torch.rand(shape)).sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
