"""Made-up data sets: their truth agrees with what is drawn, other readers read them, and the seed decides them."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from scipy import ndimage

from data.catalog.chest import FINDINGS, index_chest, read_chest_table
from data.phantoms.__main__ import main
from data.phantoms.ct import CtPhantom, draw_ct
from data.phantoms.dataset import MARK, make_ct, make_xrays
from data.phantoms.grid import Grid, draw_balls
from data.phantoms.xray import draw_xray
from utils.errors import UserError
from utils.seeding import numpy_generator

ROOT = Path(__file__).parents[3]
NARROW = 150  # mm: small scans, quick to draw


@pytest.fixture(scope="module")
def ct(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom") / "ct"
    return folder, make_ct(folder, 8, seed=1, size=NARROW)


@pytest.fixture(scope="module")
def xrays(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom") / "xrays"
    return folder, make_xrays(folder, 20, seed=3, size=80)


def read_table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_scan(folder, name):
    """(scan, lung, nodule) as SimpleITK reads them."""
    (path,) = folder.glob(f"subset*/{name}.mhd")
    return [sitk.ReadImage(str(p)) for p in (path, *(folder / "masks" / f"{name}_{k}.mhd" for k in ("lung", "nodule")))]


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def point_of(row):
    return [float(row[f"coord{axis}"]) for axis in "XYZ"]


def test_scans_lie_in_seven_subsets_and_masks_beside(ct):
    folder, made = ct
    for i, name in enumerate(made.names):
        assert (folder / f"subset{i % 7}" / f"{name}.mhd").is_file()
    assert len(list(folder.glob("subset*/*"))) == 2 * len(made.names) == 16
    assert len(list((folder / "masks").iterdir())) == 4 * len(made.names)


def test_simpleitk_reads_what_was_drawn(ct):
    folder, made = ct
    directions = set()
    for i, name in enumerate(made.names[:6]):
        drawn = draw_ct(numpy_generator(1, "ct", name), with_nodules=i % 2 == 0, width=NARROW)
        scan, lung, nodule = read_scan(folder, name)
        assert np.array_equal(sitk.GetArrayFromImage(scan), drawn.hu) and drawn.hu.dtype == np.int16
        assert np.array_equal(sitk.GetArrayFromImage(lung), drawn.lung)
        assert np.array_equal(sitk.GetArrayFromImage(nodule), drawn.nodule)
        for image in (scan, lung, nodule):
            assert image.GetSize() == drawn.hu.shape[::-1]
            assert image.GetSpacing() == pytest.approx(drawn.spacing, rel=1e-9)
            assert image.GetOrigin() == pytest.approx(drawn.origin, rel=1e-9)
            assert image.GetDirection()[::4] == drawn.direction
        assert len(set(drawn.spacing)) == len(set(drawn.hu.shape)) == 3
        directions.add(drawn.direction)
    assert directions == {(1, 1, 1), (-1, -1, 1)}


def test_annotations_lie_on_nodules_and_all_nodules_are_annotated(ct):
    folder, made = ct
    annotations = read_table(folder / "annotations.csv")
    assert {row["seriesuid"] for row in annotations} == set(made.with_nodule) == set(made.names[::2])
    for name in made.names:
        _, lung, nodule = read_scan(folder, name)
        rows = [row for row in annotations if row["seriesuid"] == name]
        labels, n_found = ndimage.label(sitk.GetArrayFromImage(nodule))
        assert n_found == len(rows)
        found = set()
        for row in rows:
            index = nodule.TransformPhysicalPointToIndex(point_of(row))
            assert lung[index] == 1
            label = labels[index[::-1]]
            found.add(int(label))
            volume = (labels == label).sum() * np.prod(nodule.GetSpacing())
            radius = float(row["diameter_mm"]) / 2
            assert 3 <= radius <= 10
            # Voxels at the rim count whole or not at all, which for the smallest of balls is a large share.
            assert volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.12 + 2.5 / radius**2)
            middle = ndimage.center_of_mass(labels == label)[::-1]
            assert nodule.TransformContinuousIndexToPhysicalPoint(middle) == pytest.approx(point_of(row), abs=0.8)
        assert found == set(range(1, n_found + 1))


def test_candidates_are_the_nodules_and_other_points_of_the_lungs(ct):
    folder, made = ct
    candidates = read_table(folder / "candidates_V2.csv")
    annotations = read_table(folder / "annotations.csv")
    nodules = [[row["seriesuid"], *point_of(row)] for row in annotations]
    assert [[row["seriesuid"], *point_of(row)] for row in candidates if row["class"] == "1"] == nodules
    for name in made.names:
        _, lung, _ = read_scan(folder, name)
        negatives = [point_of(row) for row in candidates if row["seriesuid"] == name and row["class"] == "0"]
        balls = [(point_of(row), float(row["diameter_mm"])) for row in annotations if row["seriesuid"] == name]
        assert len(negatives) == 8
        for point in negatives:
            assert lung[lung.TransformPhysicalPointToIndex(point)] == 1
            assert all(np.linalg.norm(np.subtract(point, centre)) > width / 2 + 7.9 for centre, width in balls)


def test_hounsfield_units_are_those_of_a_chest():
    scan = draw_ct(numpy_generator(2), with_nodules=True)
    extent = np.array(scan.hu.shape[::-1]) * scan.spacing
    assert (extent >= (260, 260, 180)).all()  # crops of 112x112x64 mm and borders of 70, 70 and 15 mm fit
    assert -900 < np.median(scan.hu[scan.lung]) < -800
    assert np.percentile(scan.hu[scan.lung], 1) > -1000
    outside = scan.hu[:, :3]
    assert abs(np.median(outside) + 1000) < 20 and outside.min() >= -1024 and outside.max() < -800
    middle = scan.hu[tuple(slice(n // 2 - n // 12, n // 2 + n // 12) for n in scan.hu.shape)]
    assert 0 < np.percentile(middle, 70) < 100  # heart and great vessels
    assert 0.003 < (scan.hu > 300).mean() < 0.05  # bones
    core = ndimage.binary_erosion(scan.nodule)
    assert core.any() and -120 < np.median(scan.hu[core]) < 120
    vessels = scan.lung & ~ndimage.binary_dilation(scan.nodule, iterations=2) & (scan.hu > -300)
    assert 0.005 < vessels.sum() / scan.lung.sum() < 0.06


def test_lungs_hold_boxes_with_little_tissue():
    """What preprocessing asks of its smallest boxes, 64x64x32 mm: at most 15 % at −150 HU or above."""
    scan = draw_ct(numpy_generator(4), with_nodules=False)
    x, y, z = (round(side / step) for side, step in zip((64, 64, 32), scan.spacing, strict=True))
    tissue = ndimage.uniform_filter((scan.hu >= -150).astype(np.float32), (z, y, x))
    bx, by, bz = (
        int(np.ceil((border + side / 2) / step))
        for border, side, step in zip((70, 70, 15), (64, 64, 32), scan.spacing, strict=True)
    )
    assert (tissue[bz:-bz, by:-by, bx:-bx] <= 0.15).mean() > 0.03


def test_balls_fill_voxels_by_their_volume():
    spacing = np.array([1.7, 2.1, 2.9])
    x, y, z = (np.arange(n, dtype=np.float32) * step for n, step in zip((30, 25, 20), spacing, strict=True))
    grid = Grid(x[None, None], y[None, :, None], z[:, None, None], spacing)
    coverage = np.zeros(grid.shape, dtype=np.float32)
    centre = np.array([[20.3, 24.1, 26.7]])
    draw_balls(coverage, grid, centre, 9.0)
    assert coverage.max() == 1 and coverage.sum() * spacing.prod() == pytest.approx(4 / 3 * np.pi * 9**3, rel=0.05)
    assert ndimage.center_of_mass(coverage)[::-1] == pytest.approx((centre / spacing)[0], abs=0.05)
    draw_balls(coverage, grid, np.array([[0.0, 0.0, 0.0], [-50.0, 0.0, 0.0]]), 3.0)
    assert coverage[0, 0, 0] == 1 and coverage[0, 0, -5:].max() == 0


def test_a_scan_depends_on_seed_and_name_alone(ct, tmp_path):
    folder, _ = ct
    make_ct(tmp_path / "two", 2, seed=1, size=NARROW)
    make_ct(tmp_path / "other", 1, seed=2, size=NARROW)
    whole, two, other = content(folder), content(tmp_path / "two"), content(tmp_path / "other")
    scans = {name for name in two if name.endswith((".mhd", ".raw"))}
    assert len(scans) == 12 and all(two[name] == whole[name] for name in scans)
    for table in ("annotations.csv", "candidates_V2.csv"):
        assert whole[table].startswith(two[table])
    raws = [data for name, data in whole.items() if name.startswith("subset") and name.endswith(".raw")]
    assert len(set(raws)) == 8
    assert not set(raws) & set(other.values())


def test_images_lie_as_nih_has_them_and_labels_agree_with_masks(xrays):
    folder, made = xrays
    assert made.names[:7] == [
        f"{p:08d}_{k:03d}.png" for p, k in ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2), (4, 0))
    ]
    assert sorted(index_chest(folder).names) == sorted(made.names)
    labels = read_chest_table(folder / "Data_Entry_2017.csv").labels
    rows = read_table(folder / "Data_Entry_2017.csv")
    assert [row["Image Index"] for row in rows] == made.names
    of_patient = {}
    for row in rows:
        patient, follow_up = row["Image Index"][:-4].split("_")
        assert (int(row["Patient ID"]), int(row["Follow-up #"])) == (int(patient), int(follow_up))
        person = (row["Patient Age"], row["Patient Gender"])
        assert of_patient.setdefault(patient, person) == person
        findings = set(row["Finding Labels"].split("|"))
        assert findings == {"No Finding"} or findings <= {"Nodule", "Mass", "Cardiomegaly", "Effusion"}
        assert sum(labels[row["Image Index"]]) == len(findings - {"No Finding"})

        image = np.asarray(Image.open(folder / "images" / row["Image Index"]))
        stem = row["Image Index"][:-4]
        lung, nodule = (np.asarray(Image.open(folder / "masks" / f"{stem}_{k}.png")) for k in ("lung", "nodule"))
        assert image.dtype == np.uint8 and image.shape == lung.shape == nodule.shape
        assert image.shape[0] == 80 and 67 <= image.shape[1] <= 77
        assert set(np.unique(lung)) == {0, 255} and 0.15 < (lung > 0).mean() < 0.45
        assert nodule.any() == bool(findings & {"Nodule", "Mass"}) == (row["Image Index"] in made.with_nodule)
        assert set(np.unique(nodule)) <= {0, 255}
    found = np.array([labels[name] for name in made.names]).sum(axis=0)
    drawn = [FINDINGS.index(name) for name in ("Nodule", "Mass", "Cardiomegaly", "Effusion")]
    assert (found[drawn] > 0).all() and found.sum() == found[drawn].sum()
    assert 0 < sum(row["Finding Labels"] == "No Finding" for row in rows) < len(rows)


def test_an_image_depends_on_seed_and_name_alone_and_no_two_are_alike(xrays, tmp_path):
    folder, _ = xrays
    make_xrays(tmp_path / "five", 5, seed=3, size=80)
    make_xrays(tmp_path / "other", 1, seed=4, size=80)
    whole, five, other = content(folder), content(tmp_path / "five"), content(tmp_path / "other")
    images = {name for name in five if name.endswith(".png")}
    assert len(images) == 15 and all(five[name] == whole[name] for name in images)
    assert whole["Data_Entry_2017.csv"].startswith(five["Data_Entry_2017.csv"])
    lungs = [data for name, data in whole.items() if name.endswith("_lung.png")]
    assert len(set(lungs)) == 20  # the anatomy differs, not just the grain
    assert other["images/00000001_000.png"] not in whole.values()


def test_each_finding_shows():
    for seed in range(4):
        plain = draw_xray(numpy_generator(seed), height=160, width=144)
        assert plain.findings == () and not plain.nodule.any() and plain.heart_ratio < 0.5
        large_heart = draw_xray(numpy_generator(seed), height=160, width=144, findings=("Cardiomegaly",))
        assert large_heart.heart_ratio > 0.5 and large_heart.lung.sum() < plain.lung.sum()
        fluid = draw_xray(numpy_generator(seed), height=160, width=144, findings=("Effusion",))
        lost = plain.lung & ~fluid.lung
        assert not (fluid.lung & ~plain.lung).any() and lost.sum() > 0.02 * plain.lung.sum()
        assert np.argwhere(lost)[:, 0].mean() > np.argwhere(plain.lung)[:, 0].mean() + 10  # at the bottom
        # brighter than the air it hides, whatever the exposure: rank within the image
        assert np.median(fluid.image[lost]) > np.median(fluid.image[fluid.lung])
        sizes = {}
        for finding in ("Nodule", "Mass"):
            ball = draw_xray(numpy_generator(seed), height=160, width=144, findings=(finding,))
            assert ball.findings == (finding,) and (ball.nodule & ~ball.lung).sum() < 0.1 * ball.nodule.sum()
            assert ndimage.label(ball.nodule)[1] == 1
            ring = ndimage.binary_dilation(ball.nodule, iterations=4) & ball.lung & ~ball.nodule
            core = ndimage.binary_erosion(ball.nodule)
            assert np.mean(ball.image[core]) > np.mean(ball.image[ring]) + 8
            sizes[finding] = 2 * np.sqrt(ball.nodule.sum() / np.pi) * 380 / 160
        assert sizes["Nodule"] < 30 < sizes["Mass"]


def test_lungs_are_darker_than_what_surrounds_them():
    for seed in range(5):
        phantom = draw_xray(numpy_generator(seed, "dark"), height=100, width=90)
        around = ndimage.binary_dilation(phantom.lung, iterations=6) & ~ndimage.binary_dilation(phantom.lung)
        assert np.median(phantom.image[phantom.lung]) < np.median(phantom.image[around]) - 30
        assert phantom.image.std() > 30


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match=r"among Cardiomegaly.*got Hernia"):
        draw_xray(numpy_generator(0), findings=("Hernia", "Mass"))
    with pytest.raises(ValueError, match="32x32"):
        draw_xray(numpy_generator(0), height=31, width=40)
    with pytest.raises(ValueError, match="at least 150 mm"):
        draw_ct(numpy_generator(0), with_nodules=False, width=149)


def test_scans_without_nodules_have_none():
    scan = draw_ct(numpy_generator(5), with_nodules=False, width=NARROW)
    assert isinstance(scan, CtPhantom) and not scan.nodule.any() and scan.nodules == []


def test_other_data_is_never_written_over(tmp_path):
    (tmp_path / "Data_Entry_2017.csv").write_text("a person's own")
    for make in (make_xrays, make_ct):
        with pytest.raises(UserError, match="other content") as caught:
            make(tmp_path, 1, seed=1)
        assert "\n" not in str(caught.value)
    assert content(tmp_path) == {"Data_Entry_2017.csv": b"a person's own"}


def test_the_same_set_is_made_again_in_place_and_another_is_not(tmp_path):
    make_xrays(tmp_path / "set", 2, seed=1, size=40)
    first = content(tmp_path / "set")
    (tmp_path / "set" / "Data_Entry_2017.csv").unlink()  # as after a run that was cut short
    make_xrays(tmp_path / "set", 2, seed=1, size=40)
    assert content(tmp_path / "set") == first and MARK in first
    for changed in ({"count": 3}, {"seed": 2}, {"size": 48}):
        with pytest.raises(UserError, match="other content"):
            make_xrays(tmp_path / "set", **({"count": 2, "seed": 1, "size": 40} | changed))
    assert content(tmp_path / "set") == first


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"--out: cannot write .*file") as caught:
            make_ct(out, 1, seed=1)
        assert "\n" not in str(caught.value)


def test_command_line_makes_both_kinds(tmp_path, capsys):
    assert main(["--d", "2", "--out", str(tmp_path / "x"), "--count", "2", "--size", "64", "--seed", "7"]) == 0
    assert "2 made-up chest X-rays" in capsys.readouterr().err
    make_xrays(tmp_path / "same", 2, seed=7, size=64)
    assert content(tmp_path / "x") == content(tmp_path / "same")
    assert main(["--out", str(tmp_path / "c"), "--count", "1", "--size", str(NARROW)]) == 0
    assert "1 made-up chest CT scans, 1 of them with nodules" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "c").glob("subset*/*.mhd")] == ["2.25.100000.mhd"]


def test_bad_options_end_with_status_2_and_one_line(tmp_path, capsys):
    out = str(tmp_path / "x")
    for wrong in (["--count", "0"], ["--count", "-3"], ["--count", "many"], ["--count", "1", "--size", "149"], []):
        with pytest.raises(SystemExit) as caught:
            main(["--d", "3", "--out", out, *wrong])
        assert caught.value.code == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert "error: " in last and ("--size" if "--size" in wrong else "--count") in last
        assert "--size" not in wrong or "expected 150 to 600 mm with --d 3, got 149" in last
    assert not (tmp_path / "x").exists()


def test_as_a_program_errors_are_one_line_with_status_1(tmp_path):
    (tmp_path / "mine.txt").write_text("")
    command = [sys.executable, "-m", "data.phantoms", "--d", "2", "--out", str(tmp_path), "--count", "1"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and "--out: expected a new or empty folder" in done.stderr
