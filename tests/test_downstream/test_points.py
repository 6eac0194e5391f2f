"""Predictions of points in any volumes by a network that classifies cubes."""

import csv
import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from data.datasets.candidates import cut_cube
from data.points import find_points
from data.preprocess import PRETRAINED
from downstream.old_weights import tuned_of
from downstream.tuned import TunedNetwork
from tests.dicom_slices import write_series
from tests.programs import run
from tests.scans import lung
from tests.test_downstream.test_predict import save_tuned
from utils.errors import UserError
from utils.options import CLASSIFICATION, parse_options

CUBE = (16, 16, 8)
CUBES = TunedNetwork(
    CLASSIFICATION, "luna", ("nodule",), PRETRAINED[3]._replace(window=CUBE), thresholds={"nodule": 0.375}
)
INSIDE, ORIGIN = [(5.5, 6, 7), (8, 2, 3), (9.25, 12, 11)], (-19.375, 7.25, -302.5)


@pytest.fixture
def own(tmp_path):
    """A file and a DICOM series of one content, a damaged file, and points in and outside of them."""
    root = tmp_path / "own"
    hu = lung((12, 20, 18)).clip(-1000)
    write_series(root / "disc", hu, uid="1.2.7", spacing=(1, 1, 1))
    image = sitk.GetImageFromArray(hu)
    image.SetOrigin(ORIGIN)
    (root / "P 1").mkdir()
    sitk.WriteImage(image, str(root / "P 1" / "ct.nii.gz"))
    (root / "broken.nii").write_bytes(b"\0" * 400)
    points = [np.add(ORIGIN, point).tolist() for point in INSIDE]
    rows = [(name, *point, 1) for name in ("1.2.7", "P 1/ct.nii.gz", "broken") for point in points]
    write_table(root, [*rows, rows[0], ("P 1/ct.nii.gz", 500, 0, 0, 0), ("gone", 1, 2, 3, 0), ("gone", 4, 2, 3, 0)])
    return root


def write_table(root, rows, columns="file,coordX,coordY,coordZ,class"):
    with open(root / "candidates.csv", "w", newline="") as file:
        csv.writer(file).writerows([columns.split(","), *rows])


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_points_in_files_and_series_have_probabilities_and_others_are_named(own, tmp_path, monkeypatch, capsys):
    model, out = save_tuned(tmp_path / "best.pt", CUBES), tmp_path / "out"
    typed = ["--phase", "predict", "--weight", tmp_path / "best.pt", "--data", own, "--output", out, "--workers", 0,
             "--b", 2]  # fmt: skip
    status, error = run(monkeypatch, capsys, *typed)
    assert status == 1 and "of 10 samples to evaluate are broken" in error
    status, error = run(monkeypatch, capsys, *typed, "--max_bad", 0.5)
    assert status == 0, error
    table = f"{own}/candidates.csv: "
    assert f"{table}columns that are not used: class\n" in error and f"{table}1 repeated points are dropped\n" in error
    assert "3 of 4 volumes with points in --data, 1 not: 2 points left out (gone); 3 of 3 volumes of --data" in error
    assert error.count("broken.nii: ") == 1 and "ct.nii.gz: expected candidates within the scan, (500.0" in error
    rows = rows_of(out / "predictions.csv")
    assert list(rows[0]) == ["name", "coordX", "coordY", "coordZ", "nodule", "threshold_nodule"]
    assert [row["name"] for row in rows] == ["disc/1.2.7"] * 3 + ["P 1/ct"] * 3
    for row, point in zip(rows, INSIDE * 2, strict=True):
        where = [float(row[axis]) for axis in ("coordX", "coordY", "coordZ")]
        np.testing.assert_allclose(where, np.add(ORIGIN, point), atol=1e-6)
        cube = torch.from_numpy(cut_cube(own / "P 1" / "ct.nii.gz", where, CUBE))
        with torch.no_grad():
            expected = model(((cube - cube.mean()) / cube.std())[None, None]).sigmoid().item()
        assert float(row["nodule"]) == pytest.approx(expected, abs=2e-6) and row["threshold_nodule"] == "0.375"
    assert len({row["nodule"] for row in rows}) == 3
    assert len(json.loads((out / "run.json").read_text())["left_out"]["broken"]) == 4

    # What is finished is not computed again.
    log = out / "finished" / "process_0.jsonl"
    lines = [line for line in log.read_text().splitlines() if line]
    log.write_text("\n".join(["", json.dumps([json.loads(lines[0])[0], [0.5]]), *lines[1:4]]))
    status, error = run(monkeypatch, capsys, *typed, "--max_bad", 0.5)
    assert status == 0 and "4 of 10 are finished already" in error, error
    again = rows_of(out / "predictions.csv")
    assert again[0]["nodule"] == "0.5" and again[1:] == rows[1:]


def test_a_wrong_table_is_one_line(own):
    for columns, row, message in (
        ("file,coordX,coordY", ("P 1/ct", 1, 2), "expected the columns file,coordX,coordY,coordZ, got"),
        ("scan,coordX,coordY,coordZ", ("P 1/ct", 1, 2, 3), "expected a column seriesuid or file or name, got scan,"),
        ("name,coordX,coordY,coordZ", ("P 1/ct", 1, "x", 3), "three numbers in mm, got 1, x, 3 in row 1"),
        ("name,coordX,coordY,coordZ", ("P 1/ct", 1, "inf", 3), "three numbers in mm, got 1, inf, 3 in row 1"),
        (
            "seriesuid,coordX,coordY,coordZ",
            ("9.9", 1, 2, 3),
            r"none of its 1 volumes is there \(9.9; of --data: P",
        ),
    ):
        write_table(own, [row], columns)
        with pytest.raises(UserError, match=message):
            find_points(own, verbose=False)
    (own / "candidates.csv").unlink()
    with pytest.raises(UserError, match=r"expected candidates.csv in .*own, or candidates_V2.csv there, its CSVFILES/"):
        find_points(own, verbose=False)


def test_weights_of_candidates_without_a_record_are_known_by_their_last_layer(tmp_path):
    save_tuned(tmp_path / "best.pt", CUBES)
    content = torch.load(tmp_path / "best.pt")
    torch.save({"state_dict": content["state_dict"]}, tmp_path / "old.pt")
    typed = ["--phase", "predict", "--weight", str(tmp_path / "old.pt"), "--data", "D", "--output", "O"]
    assert tuned_of(parse_options(typed)).reading == PRETRAINED[3]._replace(window=(48, 48, 32))
    network = tuned_of(parse_options([*typed, "--crop", "16", "16", "8"]))
    assert network == CUBES._replace(thresholds={}) and network.of_cubes
    volumes = tuned_of(parse_options([*typed, "--n", "folder", "--labels", "a", "--spacing", "2"]))
    assert volumes.reading == PRETRAINED[3]._replace(spacing=2.0) and not volumes.of_cubes
