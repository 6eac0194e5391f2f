"""Nodule candidates of LUNA16: cubes at the points of the table, balanced classes, and a whole run."""

import csv
import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from data.catalog.dicom_scans import find_series
from data.catalog.list_folders import ListFolders
from data.datasets.candidates import (
    REPEATS,
    BalancedCubes,
    Candidates,
    cut_cube,
    find_table,
    open_candidates,
    read_candidates,
)
from data.inputs import AugmentedCubes, eval_cubes
from data.loader import Loader
from data.readers.volumes import VolumeSpec, load_resampled, read_header
from data.transforms.hounsfield import scale
from losses.classification import balanced_cross_entropy
from tests.dicom_slices import write_series
from tests.model_cards import run_card
from tests.programs import run
from tests.scans import write_scan
from tests.test_downstream.conftest import write_table
from utils.errors import UserError
from utils.records import LabelledCubes
from utils.seeding import torch_generator

CUBE = (16, 24, 8)
# A patient lying on the belly: x and y run backwards.
BACKWARDS = {"TransformMatrix": "-1 0 0 0 -1 0 0 0 1"}


def options_of(data, output):
    return [
        "--phase", "finetune", "--data", data, "--output", output, "--lists", output.parent / "lists", "--n", "luna",
        "--d", 3, "--b", 16, "--ratio", 0.3, "--workers", 0, "--lr", 1e-3, "--weight", "none", "--epochs", 0,
        "--crop", *CUBE,
    ]  # fmt: skip


def test_candidates_from_scans_to_results(luna, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    status, error = run(monkeypatch, capsys, *options_of(luna, out))
    assert status == 0, error
    results = json.loads((out / "results.json").read_text())
    assert results["test_split"] == "subset7 to subset9" and results["test_patients"] == 2
    found = results["auroc"]["nodule"]
    assert (found["positives"], found["negatives"]) == (4, 10) and found["low"] <= found["value"] <= found["high"]
    with open(out / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 14 and {row["name"].split()[0] for row in rows} == {"1.3.6.7", "1.3.6.8"}
    assert sum(int(row["label_nodule"]) for row in rows) == 4
    assert (out / "roc.png").stat().st_size > 1000
    listed = (tmp_path / "lists" / "luna_train.txt").read_text().split()
    assert sorted(listed) == [f"1.3.6.{i}" for i in range(7)]
    check_predictions_of_points(luna, out, {row["name"]: row for row in rows}, tmp_path, monkeypatch, capsys)


def check_predictions_of_points(luna, out, tested, tmp_path, monkeypatch, capsys):
    """Points of LUNA16's own table are predicted as on the test split, by weights with a record and by older ones."""
    scan = sitk.GetImageFromArray(np.random.default_rng(0).integers(-1000, 99, (20, 40, 50)).astype(np.int16))
    scan.SetOrigin((-20.0, -20.0, -8.0))
    sitk.WriteImage(scan, tmp_path / "ct.nii.gz")
    assert 0 < run_card(out, tmp_path / "ct.nii.gz", 3)["probabilities"].item() < 1
    typed = ["--phase", "predict", "--data", luna, "--workers", 0, "--weight"]
    for name in ("best.pt", "pcrlv2_luna_finetune_0.3_0.pt"):
        found = tmp_path / f"of {name}"
        status, error = run(monkeypatch, capsys, *typed, out / name, "--output", found)
        assert status == 0 and "candidates_V2.csv: columns that are not used: class\n" in error, error
        with open(found / "predictions.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 63
        for row in rows:
            if row["name"] in ("1.3.6.7", "1.3.6.8"):
                key = " ".join([row["name"], *(f"{float(row[axis]):.6g}" for axis in ("coordX", "coordY", "coordZ"))])
                assert float(row["nodule"]) == pytest.approx(float(tested[key]["nodule"]), abs=2e-6)


def test_what_pre_trained_does_not_fine_tune_and_no_scan_is_in_two_splits(luna, tmp_path):
    splits = open_candidates(root=luna, lists=ListFolders.at(tmp_path), ratio=0.3, seed=1, cube=CUBE)
    listed = (tmp_path / "luna_train.txt").read_text().split()
    train, valid, test = (set(split.patients) for split in splits[:3])
    assert train | valid == set(listed[2:]) and not train & valid and test == {"1.3.6.7", "1.3.6.8"}
    # Without subset7 to subset9 a fifth of the scans is held out.
    copy = shutil.copytree(luna, tmp_path / "copy", ignore=shutil.ignore_patterns("subset7", "subset8"))
    splits = open_candidates(root=copy, lists=ListFolders.at(tmp_path), ratio=0.3, seed=1, cube=CUBE)
    assert splits.test_source == "a fifth of the scans, held out" and set(splits.test.patients) < set(listed[2:])


def test_lists_of_validation_and_test_scans_are_used(luna, tmp_path):
    made = open_candidates(root=luna, lists=ListFolders.at(tmp_path), ratio=0, seed=1, cube=CUBE)
    listed = (tmp_path / "luna_train.txt").read_text().split()
    lists = {"train": listed[:4], "valid": [listed[4]], "test": [listed[5], listed[0]]}
    for split, names in lists.items():
        (tmp_path / f"luna_{split}.txt").write_text("\n".join(names))
    splits = open_candidates(root=luna, lists=ListFolders.at(tmp_path), ratio=0, seed=1, cube=CUBE)
    assert [set(split.patients) for split in splits[:3]] == [set(listed[1:4]), {listed[4]}, {listed[5], listed[0]}]
    assert splits.test_source == "luna_test.txt" and splits.test_source != made.test_source


def test_cubes_of_a_dicom_series_are_those_of_the_same_volume_in_a_file(tmp_path):
    """It is read once for all points."""
    hu = np.random.default_rng(3).integers(-1000, 1500, (20, 40, 50)).astype(np.int16)
    write_series(tmp_path / "series", hu)
    (series,) = find_series(tmp_path, verbose=False).series
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing(series.geometry.spacing)
    image.SetOrigin(series.geometry.origin)
    sitk.WriteImage(image, tmp_path / "same.nii.gz")
    for point in ((-10.0, 20.0, -280.0), (-19.0, 8.0, -302.0)):
        cubes = [cut_cube(source, point, CUBE) for source in (series, tmp_path / "same.nii.gz")]
        np.testing.assert_array_equal(*cubes)
        assert cubes[0].std() > 0.1
    for path in series.files:
        path.unlink()
    cut_cube(series, (-10.0, 20.0, -280.0), CUBE)


@pytest.mark.parametrize("fields", [{}, BACKWARDS])
@pytest.mark.parametrize("folder", ["subset0", "own"])
def test_cubes_are_those_of_the_whole_scan_at_1_mm(tmp_path, fields, folder):
    """Along the axes that pre-training sees: as stored in LUNA16's folders, else to the left, back and up."""
    rng = np.random.default_rng(3)
    volume = rng.integers(-1500, 1500, (20, 40, 50)).astype(np.int16)
    (tmp_path / folder).mkdir()
    path = tmp_path / folder / "s.mhd"
    write_scan(path, volume, spacing=(0.7, 0.9, 1.7), origin=(-80.0, 12.0, 5.0), **fields)
    spec = VolumeSpec(as_stored=folder == "subset0")
    whole, grid, low = scale(load_resampled(path, spec=spec)), read_header(path, spec), np.array([6, 3, 8])
    assert (grid.axes[0, 0] < 0) == (folder == "subset0" and bool(fields))
    point = np.array(grid.origin) + grid.axes @ (low + (np.array(CUBE) - 1) / 2)
    cube = cut_cube(path, point, CUBE)
    expected = whole[tuple(slice(s, s + c) for s, c in zip(low, CUBE, strict=True))]
    assert cube.shape == CUBE and cube.dtype == np.float32
    np.testing.assert_allclose(cube, expected, atol=1.01 / 2000)


def test_a_nodule_is_in_the_middle_of_its_cube_and_air_beyond_the_scan(luna):
    candidates = read_candidates(luna / "candidates_V2.csv")
    for i in np.flatnonzero(candidates.labels[:, 0] == 1)[:6]:
        name = candidates.scans[candidates.scan_index[i]]
        cube = cut_cube(luna / f"subset{name[-1]}" / f"{name}.mhd", candidates.points[i], CUBE)
        middle = cube[7:9, 11:13, 3:5]
        assert middle.min() > 0.5  # 50 HU is 0.525, lung 0.075
    path = luna / "subset0" / "1.3.6.0.mhd"
    corner = cut_cube(path, (-100.0, 30.0, -50.0), CUBE)
    assert (corner[:7] == 0).all() and (corner[:, :11] == 0).all() and (corner[:, :, :3] == 0).all()
    assert corner[9:, 13:, 5:].max() > 0
    with pytest.raises(UserError, match="expected candidates within the scan"):
        cut_cube(path, (-200.0, 40.0, -40.0), CUBE)
    with pytest.raises(UserError, match="there is no file"):
        cut_cube(luna / "subset0" / "none.mhd", (0, 0, 0), CUBE)


def made(labels):
    n = len(labels)
    points = np.arange(3 * n, dtype=float).reshape(n, 3)
    return Candidates(["s"], np.zeros(n, int), points, np.array(labels, np.float32).reshape(n, 1))


def test_an_epoch_is_balanced_and_each_false_positive_comes_before_any_comes_again():
    labels = [1, 0, 0, 1] + [0] * 61
    cubes = BalancedCubes(made(labels), {}, CUBE, seed=1)
    assert len(cubes) == 2 * 2 * REPEATS
    seen = [[cubes.candidate_of(epoch, i) for i in range(len(cubes))] for epoch in range(4)]
    for epoch in seen:
        assert [labels[i] for i in epoch] == [1, 0] * (len(cubes) // 2)
        assert sorted(epoch[::2]) == [0] * REPEATS + [3] * REPEATS
    others = [i for epoch in seen for i in epoch[1::2]]
    negatives = [i for i, label in enumerate(labels) if not label]
    assert sorted(others[:63]) == negatives and len(set(others[:20]) & set(others[20:40])) == 0
    assert seen == [
        [BalancedCubes(made(labels), {}, CUBE, seed=1).candidate_of(e, i) for i in range(40)] for e in range(4)
    ]
    assert seen[0] != [BalancedCubes(made(labels), {}, CUBE, seed=2).candidate_of(0, i) for i in range(40)]
    with pytest.raises(UserError, match="got 2 and 0 in 1 scans"):
        BalancedCubes(made([1, 1]), {}, CUBE, seed=1)


def test_batches_depend_on_seed_and_epoch_alone(luna, tmp_path):
    splits = open_candidates(root=luna, lists=ListFolders.at(tmp_path), ratio=0.3, seed=1, cube=CUBE)
    one, two = (list(Loader(splits.train, batch_size=8, workers=w, seed=1).batches(1, 2)) for w in (0, 2))
    assert one[0].cubes.shape == (8, 1, *CUBE) and one[0].labels.shape == (8, 1)
    assert all(torch.equal(a, b) for x, y in zip(one, two, strict=True) for a, b in zip(x, y, strict=True))


def test_inputs_are_normalised_as_in_pre_training_and_moved_in_training():
    cubes = torch.rand(4, 1, *CUBE, generator=torch_generator("cubes"))
    batch = LabelledCubes(cubes, torch.ones(4, 1))
    inputs, labels = eval_cubes(batch)
    torch.testing.assert_close(inputs, (cubes - cubes.mean((2, 3, 4), True)) / cubes.std((2, 3, 4), keepdim=True))
    first, second = (AugmentedCubes()(batch, torch_generator("moved", i))[0] for i in (0, 1))
    assert first.shape == inputs.shape and not torch.equal(first, second) and not torch.equal(first, inputs)
    assert torch.equal(first, AugmentedCubes()(batch, torch_generator("moved", 0))[0]) and torch.equal(
        labels, batch.labels
    )


def test_both_classes_count_the_same_however_many_there_are():
    logits, labels = torch.tensor([[0.0], [2.0], [2.0], [2.0]]), torch.tensor([[1.0], [0], [0], [0]])
    expected = (np.log(2) + np.log(1 + np.exp(2))) / 2
    assert balanced_cross_entropy(logits, labels).item() == pytest.approx(expected)
    assert balanced_cross_entropy(logits[:1], labels[:1]).item() == pytest.approx(np.log(2))


def test_the_table_is_found_in_the_usual_folders(tmp_path):
    root = tmp_path / "LUNA16"
    root.mkdir()
    with pytest.raises(UserError, match=r"expected candidates_V2.csv in .*LUNA16"):
        find_table(root)
    for folder in (tmp_path, root / "CSVFILES", root):
        folder.mkdir(exist_ok=True)
        write_table(folder / "candidates_V2.csv", [])
        assert find_table(root) == folder / "candidates_V2.csv"


def test_wrong_input_is_one_line(luna, tmp_path, monkeypatch, capsys):
    copy = shutil.copytree(luna, tmp_path / "copy")
    table = copy / "candidates_V2.csv"
    rows = list(csv.reader(table.read_text().splitlines()))
    crops = tmp_path / "crops" / "subset0"
    crops.mkdir(parents=True)
    (crops / "x_global_0.npy").touch()

    def refused(message, data=copy, *more):
        status, error = run(monkeypatch, capsys, *options_of(data, tmp_path / "out"), *more)
        lines = [line for line in error.splitlines() if "error:" in line]
        assert status == 1 and len(lines) == 1 and message in lines[0], error

    refused("it holds crops; give the folder of the scans that they were cut from", tmp_path / "crops")
    refused("smaller --ratio", copy, "--ratio", 1)
    for content, message in (
        ("seriesuid,coordX,coordY,class\n1.3.6.0,1,2,0\n", "got seriesuid,coordX,coordY,class"),
        ("seriesuid,coordX,coordY,coordZ,class\n1.3.6.0,1,2,x,0\n", "three numbers in mm and a class of 0 or 1"),
        ("seriesuid,coordX,coordY,coordZ,class\n1.3.6.0,1,2,inf,0\n", "in row 1"),
        ("seriesuid,coordX,coordY,coordZ,class\n1.3.6.0,1,2,3,2\n", "three numbers in mm and a class of 0 or 1"),
        ("seriesuid,coordX,coordY,coordZ,class\n1.3.6.0,1,2\n", "row 1 is cut short"),
        ("seriesuid,coordX,coordY,coordZ,class\nelsewhere,1,2,3,1\n", "none of its 1 scans is there"),
    ):
        table.write_text(content)
        refused(message)
    # Candidates of a missing scan are left out and reported; below, too many points are outside of their scan.
    write_table(table, [*rows[1:], ["elsewhere", 1, 2, 3, 1]])
    splits = open_candidates(root=copy, lists=ListFolders.at(tmp_path / "lists"), ratio=0.3, seed=1, cube=CUBE)
    error = capsys.readouterr().err
    assert "9 of 10 scans with candidates in --data, 1 not: 1 candidates left out (elsewhere); 9 of 9 scans" in error
    assert "elsewhere" not in splits.test.files
    write_table(table, [[name, 1e4 + float(x), y, z, label] for name, x, y, z, label in rows[1:]])
    refused("expected candidates within the scan")
    # A listed scan whose file is gone.
    write_table(table, rows[1:])
    last = (tmp_path / "lists" / "luna_train.txt").read_text().split()[-1]
    next(copy.glob(f"subset*/{last}.mhd")).unlink()
    refused("1 of its 5 names are not in")


def test_only_the_voxels_around_a_candidate_are_read(luna, monkeypatch):
    asked = []
    reader = sitk.ImageFileReader

    class Watched(reader):
        def SetExtractSize(self, size):
            asked.append(size)
            super().SetExtractSize(size)

    monkeypatch.setattr(sitk, "ImageFileReader", Watched)
    cut_cube(luna / "subset0" / "1.3.6.0.mhd", (-80.0, 48.0, -35.0), (8, 8, 8))
    ((x, y, z),) = asked
    assert 10 <= x <= 13 and 9 <= y <= 12 and 6 <= z <= 9
