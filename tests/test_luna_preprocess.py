"""luna_preprocess.py as people run it: folders, workers, kills, reruns and scans that give nothing."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import luna_preprocess
from data import crop_pairs
from data.catalog.list_folders import ListFolders
from data.crops import LOCAL_SHAPE
from data.datasets.pretraining import open_dataset
from data.pairs import CropSettings
from data.scan_records import Scan
from tests.scans import lung, write_scan
from utils.atomic import write_error
from utils.cores import available_cores

ROOT = Path(__file__).parent.parent
SMALL = ["--input_rows", "16", "--input_cols", "24", "--input_deps", "8", "--scale", "2"]


@pytest.fixture
def luna(tmp_path):
    for i, shape in enumerate([(60, 110, 100), (50, 70, 90), (80, 100, 75)]):
        folder = tmp_path / "luna" / f"subset{i}"
        folder.mkdir(parents=True)
        write_scan(folder / f"1.3.6.{i}.mhd", lung(shape, seed=i), spacing=(1.4, 1.3, 1.1))
    return tmp_path / "luna"


def preprocess(data, save, *options, **environment):
    command = [sys.executable, ROOT / "luna_preprocess.py", "--data", data, "--save", save, *SMALL, *options]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=120)


def arrays(save):
    return {str(path.relative_to(save)): np.load(path) for path in sorted(save.rglob("*.npy"))}


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_files_shapes_and_manifest(luna, tmp_path):
    done = preprocess(luna, tmp_path / "out", "--workers", "1")
    assert done.returncode == 0, done.stderr
    made = arrays(tmp_path / "out")
    assert set(made) == {
        f"subset{i}/1.3.6.{i}_{kind}_{k}.npy" for i in range(3) for kind in ("global", "local") for k in range(2)
    }
    for name, array in made.items():
        assert array.shape == ((2, 16, 24, 8) if "global" in name else (6, *LOCAL_SHAPE))
        assert array.dtype == np.float32 and 0 <= array.min() < array.max() <= 1
    assert not same({"a": made["subset0/1.3.6.0_global_0.npy"]}, {"a": made["subset0/1.3.6.0_global_1.npy"]})
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["scans"], manifest["pairs"], manifest["failures"]) == (3, 6, {})
    assert manifest["bytes"] == sum(path.stat().st_size for path in (tmp_path / "out").rglob("*.npy"))
    assert manifest["records"][0]["voxels"] == [140, 143, 66]
    assert done.stderr.count("smaller borders") == 3  # once a scan


def test_output_does_not_depend_on_workers_order_or_sharing_out(luna, tmp_path):
    for save, options in (("one", ["--workers", "1"]), ("two", ["--workers", "2"])):
        assert preprocess(luna, tmp_path / save, *options).returncode == 0
    for rank in "10":
        done = preprocess(luna, tmp_path / "ranks", "--workers", "1", RANK=rank, WORLD_SIZE="2")
        assert done.returncode == 0
    for fold in "012":
        assert preprocess(luna, tmp_path / "folds", "--workers", "1", "--fold", fold).returncode == 0
    one = arrays(tmp_path / "one")
    assert all(same(one, arrays(tmp_path / save)) for save in ("two", "ranks", "folds"))
    assert json.loads((tmp_path / "ranks" / "manifest.json").read_text())["pairs"] == 6
    assert preprocess(luna, tmp_path / "seed", "--workers", "1", "--seed", "7").returncode == 0
    assert not same(one, arrays(tmp_path / "seed"))


def test_a_rerun_skips_what_is_finished_and_makes_what_is_not(luna, tmp_path):
    save = tmp_path / "out"
    assert preprocess(luna, save, "--workers", "1").returncode == 0
    before = arrays(save)
    times = {path: path.stat().st_mtime_ns for path in save.rglob("*.npy")}
    (save / "subset1" / "1.3.6.1_local_0.npy").unlink()
    (save / "subset2" / "1.3.6.2.json").write_text("{")
    done = preprocess(luna, save, "--workers", "1")
    assert "1 of 3 scans are finished" in done.stderr and same(before, arrays(save))
    assert {path.parent.name for path, at in times.items() if path.stat().st_mtime_ns == at} == {"subset0"}
    # Another setting makes all of them anew, and takes away what would be left of the old.
    assert preprocess(luna, save, "--workers", "1", "--scale", "1", "--dtype", "float16").returncode == 0
    after = arrays(save)
    assert len(after) == 6 and {array.dtype for array in after.values()} == {np.dtype(np.float16)}
    assert np.abs(after["subset0/1.3.6.0_global_0.npy"] - before["subset0/1.3.6.0_global_0.npy"]).max() < 1e-3


def test_crops_are_those_of_the_whole_scan(luna, tmp_path, monkeypatch):
    """Though only the part within reach is resampled."""
    made = {}
    for needed in (True, False):
        if not needed:
            monkeypatch.setattr(crop_pairs, "reachable_region", lambda limits, shape: (slice(None),) * 3)
        scan = Scan(luna / "subset1" / "1.3.6.1.mhd", tmp_path / str(needed))
        scan.target.mkdir()
        crop_pairs.preprocess_scan(scan, CropSettings((16, 24, 8), (0.5, 0.5), 6, 0, "float32"))
        made[needed] = arrays(scan.target)
    assert len(made[True]) == 12 and same(made[True], made[False])


def test_a_scan_half_made_with_other_settings_is_made_anew(luna, tmp_path):
    save, options = tmp_path / "out", ["--workers", "1", "--fold", "0"]
    assert preprocess(luna, save, *options).returncode == 0
    before, record = arrays(save), save / "subset0" / "1.3.6.0.json"
    scan = Scan(luna / "subset0" / "1.3.6.0.mhd", save / "subset0")
    other = CropSettings((16, 24, 8), (1, 1), 2, 7, "float32")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(crop_pairs.FileGroup, "sync", lambda group: (_ for _ in ()).throw(KeyboardInterrupt))
        crop_pairs.preprocess_scan(scan, other)
    assert not record.exists() and not same(before, arrays(save))
    assert preprocess(luna, save, *options).returncode == 0
    assert same(before, arrays(save))


def test_scans_that_give_no_pair_are_reported_and_the_others_made(luna, tmp_path):
    bone = np.full((60, 110, 100), 700, dtype=np.int16)
    bone[0, 0, 0] = -1000
    write_scan(luna / "subset0" / "bone.mhd", bone)
    write_scan(luna / "subset0" / "thin.mhd", bone[:, :5])
    (luna / "subset1" / "1.3.6.1.raw").unlink()
    done = preprocess(luna, tmp_path / "out", "--workers", "2")
    assert done.returncode == 1
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert set(manifest["failures"]) == {"bone", "thin", "1.3.6.1"} and manifest["pairs"] == 4
    assert "too little" in done.stderr or "little enough tissue" in manifest["failures"]["bone"]
    assert "no box fits in" in manifest["failures"]["thin"] and "no such file" in manifest["failures"]["1.3.6.1"]
    assert "Traceback" not in done.stderr and "3 scans failed" in done.stderr


def test_short_scans_are_lengthened_with_air(tmp_path):
    (tmp_path / "luna" / "subset0").mkdir(parents=True)
    write_scan(tmp_path / "luna" / "subset0" / "short.mhd", lung((20, 110, 100)))
    done = preprocess(tmp_path / "luna", tmp_path / "out", "--workers", "1")
    assert done.returncode == 0, done.stderr
    crops = np.load(tmp_path / "out" / "subset0" / "short_global_0.npy")
    assert (crops[..., -1] < 1e-3).all() and (crops[:, :, 12:, 0] > 0.01).all()


def test_crop_rows_and_cols_scale_the_boxes(luna, tmp_path):
    assert preprocess(luna, tmp_path / "a", "--workers", "1").returncode == 0
    assert preprocess(luna, tmp_path / "b", "--workers", "1", "--crop_rows", "32", "--crop_cols", "32").returncode == 0
    assert not same(arrays(tmp_path / "a"), arrays(tmp_path / "b"))


def test_killed_anywhere_and_run_again_it_ends_with_the_same_files(luna, tmp_path):
    many, save = ["--workers", "1", "--scale", "20"], tmp_path / "killed"
    assert preprocess(luna, tmp_path / "whole", *many).returncode == 0
    command = [sys.executable, ROOT / "luna_preprocess.py", "--data", luna, "--save", save, *SMALL, *many]
    for seconds in (0.35, 0.45, 0.55, 0.65):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        process.kill()
        process.wait()
        for path in save.rglob("*.npy"):
            np.load(path)
    assert preprocess(luna, save, *many).returncode == 0
    assert same(arrays(tmp_path / "whole"), arrays(save))


WRONG = {
    "no folder": (["--data", "nowhere"], 1, "--data: expected a folder"),
    "empty folder": (["--data", "empty"], 1, "is empty"),
    "no scans": (["--data", "other"], 1, "subset*/*.mhd"),
    "no such fold": (["--data", "luna", "--fold", "9"], 1, "subset9/*.mhd"),
    "odd size": (
        ["--data", "luna", "--input_rows", "60"],
        2,
        "--input_rows: expected a multiple of 8, got 60; give 56 or 64",
    ),
    "no pairs": (["--data", "luna", "--scale", "0"], 2, "--scale: expected a number from 1"),
    "a prefix": (["--data", "luna", "--work", "1"], 2, "--work"),
    "not writable": (["--data", "luna", "--save", "file/out"], 1, "--save: cannot make"),
}


@pytest.mark.parametrize("options, status, message", WRONG.values(), ids=WRONG)
def test_wrong_input_is_one_line(luna, tmp_path, options, status, message, capsys, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.txt").touch()
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["luna_preprocess.py", "--save", "out", *options])
    with pytest.raises(SystemExit) as caught:
        luna_preprocess.run_command(luna_preprocess.main)
    assert caught.value.code == status
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


@pytest.fixture
def run(monkeypatch, capsys):
    """The program in this process, as it is typed: (exit status, stderr)."""

    def typed(data, save, *options):
        monkeypatch.setattr(sys, "argv", ["luna_preprocess.py", "--data", str(data), "--save", str(save), *SMALL,
                                          "--workers", "1", *map(str, options)])  # fmt: skip
        with pytest.raises(SystemExit) as caught:
            luna_preprocess.run_command(luna_preprocess.main)
        error = capsys.readouterr().err
        assert "Traceback" not in error
        return caught.value.code, error

    return typed


def damage(luna, subset=1):
    (luna / f"subset{subset}" / f"1.3.6.{subset}.raw").write_bytes(b"short")


def manifest_of(save):
    return json.loads((save / "manifest.json").read_text())


def names(error):
    """The scans that lines of failures name."""
    lines = [line for line in error.splitlines() if line.startswith("failed: ")]
    return sorted({name for name in ("1.3.6.0", "1.3.6.1", "1.3.6.2", "n" * 250) for line in lines if name in line})


def test_one_damaged_scan_does_not_end_it_and_pretraining_leaves_it_out(luna, tmp_path, run, capsys):
    damage(luna)
    save, lists = tmp_path / "out", tmp_path / "lists"
    status, error = run(luna, save)
    assert status == 0 and names(error) == ["1.3.6.1"] and "1 scans failed" in error
    assert list(manifest_of(save)["failures"]) == ["1.3.6.1"] and manifest_of(save)["pairs"] == 4
    lists.mkdir()
    (lists / "luna_train.txt").write_text("1.3.6.0\n1.3.6.1\n1.3.6.2\n")
    assert len(open_dataset(name="luna", root=save, lists=ListFolders.at(lists), ratio=1.0, seed=0)) == 4
    assert "1 of its 3 scans gave no crops when they were preprocessed and are left out (1.3.6.1)" in (
        capsys.readouterr().err
    )
    # None may fail; two may not; two of three may; but not all.
    assert run(luna, save, "--max_bad", 0)[0] == 1
    damage(luna, 2)
    status, error = run(luna, save)
    assert status == 1 and "--max_bad 0.01 allows 1 of 3" in error and names(error) == ["1.3.6.1", "1.3.6.2"]
    assert run(luna, save, "--max_bad", 0.7)[0] == 0
    assert "1.3.6.2_global" not in " ".join(arrays(save)), "crops of what the file held before are gone"
    damage(luna, 0)
    status, error = run(luna, save, "--max-bad", 1)
    assert status == 1 and "one must give crops" in error and not arrays(save)


def test_the_share_is_of_all_scans_whichever_process_has_them(luna, tmp_path, run, monkeypatch):
    damage(luna, 0)
    damage(luna, 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for share, statuses in (("0.01", [0, 1]), ("0.7", [0, 0])):
        save = tmp_path / share
        for rank, status in enumerate(statuses):
            monkeypatch.setenv("RANK", str(rank))
            assert run(luna, save, "--max_bad", share)[0] == status
        assert set(manifest_of(save)["failures"]) == {"1.3.6.0", "1.3.6.1"}


FAULTS = {
    "memory": MemoryError(), "library": RuntimeError("two\nlines"), "value": ValueError("odd"), "keys": KeyError("x"),
    "files": OSError(errno.EIO, "Input/output error"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_a_scan_does_is_its_own_affair(luna, tmp_path, run, monkeypatch, fault):
    load = crop_pairs.load_resampled

    def load_or_fail(path, *arguments, **settings):
        if path.name == "1.3.6.0.mhd":
            raise FAULTS[fault]
        return load(path, *arguments, **settings)

    monkeypatch.setattr(crop_pairs, "load_resampled", load_or_fail)
    status, error = run(luna, tmp_path / "out", "--scale", 1)
    assert status == 0 and names(error) == ["1.3.6.0"] and manifest_of(tmp_path / "out")["pairs"] == 2
    assert sum(line.startswith("failed: ") for line in error.splitlines()) == 1


def test_names_and_records_that_cannot_be_written_fail_their_scan_alone(luna, tmp_path, run, monkeypatch):
    save = tmp_path / "out"
    (luna / "subset3").mkdir()
    for name in ("l" * 238, "n" * 250):  # the former is just short enough for the names of its crops
        scan = write_scan(luna / "subset3" / f"{name[:3]}.mhd", lung(), spacing=(1.4, 1.3, 1.1))
        scan.rename(scan.with_name(f"{name}.mhd"))
    (save / "subset0" / "1.3.6.0.json").mkdir(parents=True)
    (save / "subset2").write_text("a file where a folder should be")
    failures = {"1.3.6.0", "1.3.6.2", "n" * 250}
    status, error = run(luna, save, "--max_bad", 0.8, "--scale", 1)
    assert status == 0 and names(error) == sorted(failures) and manifest_of(save)["pairs"] == 2
    assert set(manifest_of(save)["failures"]) == failures and f"subset3/{'l' * 238}_local_0.npy" in arrays(save)
    # Pre-training asks the manifest, so that those that have no record stay in it, whichever process knew of them.
    monkeypatch.setenv("WORLD_SIZE", "5")
    for rank in "10243":
        monkeypatch.setenv("RANK", rank)
        run(luna, save, "--scale", 1)
        assert set(manifest_of(save)["failures"]) == failures


def test_a_full_disk_ends_the_run(luna, tmp_path, run, monkeypatch):
    tried = []

    def full(scan, settings):
        tried.append(scan)
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise write_error(scan.file("global", 0), error) from error

    monkeypatch.setattr(luna_preprocess, "preprocess_scan", full)
    status, error = run(luna, tmp_path / "out", "--max_bad", 1)
    assert status == 1 and len(tried) == 1
    assert error.count("\n") == 1 and "No space left" in error and error.startswith("luna_preprocess.py: error")


def test_crops_are_made_anew_when_what_they_come_from_has_changed(luna, tmp_path, run):
    save = tmp_path / "out"
    run(luna, save)
    before = arrays(save)
    assert "3 of 3 scans are finished already" in run(luna, save)[1]
    # A copy with its times elsewhere is the same scan; other voxels of the same length are not.
    shutil.copytree(luna, tmp_path / "copy", copy_function=shutil.copy2)
    copied_crops = shutil.copytree(save, tmp_path / "copied_crops")
    assert "3 of 3 scans are finished already" in run(tmp_path / "copy", copied_crops)[1]
    raw = luna / "subset1" / "1.3.6.1.raw"
    raw.write_bytes(raw.read_bytes()[::-1])
    error = run(luna, save)[1]
    assert "2 of 3 scans are finished" in error
    assert "preprocessed again: 1 of 3 scans changed since their crops were made (1.3.6.1)" in error
    after = arrays(save)
    assert {name for name in before if not np.array_equal(before[name], after[name])} == {
        name for name in before if "1.3.6.1" in name
    }
    assert "preprocessed again: 3 of 3 scans have crops of other settings" in run(luna, save, "--seed", 3)[1]


def test_why_crops_are_made_anew(luna, tmp_path, run):
    save = tmp_path / "out"
    damage(luna, 0)
    run(luna, save, "--scale", 1)
    (save / "subset1" / "1.3.6.1_local_0.npy").unlink()
    (save / "subset2" / "1.3.6.2.json").write_text("{")
    error = run(luna, save, "--scale", 1)[1]
    assert "1 of 3 scans failed before and are tried again (1.3.6.0)" in error
    assert "1 of 3 scans lack some of their crops (1.3.6.1)" in error
    assert "1 of 3 scans have crops without a record of how they were made (1.3.6.2)" in error


def test_crops_of_an_older_version_are_finished_unless_their_scan_is_younger(luna, tmp_path, run):
    save = tmp_path / "out"
    run(luna, save, "--scale", 1)
    for path in save.glob("*/*.json"):
        record = json.loads(path.read_text())
        del record["files"]
        path.write_text(json.dumps(record))
    assert "3 of 3 scans are finished" in run(luna, save, "--scale", 1)[1]
    later = time.time_ns() + 10**10
    os.utime(luna / "subset2" / "1.3.6.2.raw", ns=(later, later))
    error = run(luna, save, "--scale", 1)[1]
    assert "2 of 3 scans are finished" in error and "changed since their crops were made (1.3.6.2)" in error


def test_files_of_others_are_never_taken_for_records(luna, tmp_path, run):
    (tmp_path / "out" / "subset1").mkdir(parents=True)
    sidecar = tmp_path / "out" / "subset1" / "1.3.6.1.json"
    sidecar.write_text('{"Manufacturer": "x"}')
    status, error = run(luna, tmp_path / "out")
    assert status == 1 and "--save: expected a folder for crops" in error and str(sidecar) in error
    assert sidecar.read_text() == '{"Manufacturer": "x"}'


def write_as(path, seed):
    """A scan in the format of the ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".mhd":
        write_scan(path, lung(seed=seed), spacing=(1.4, 1.3, 1.1))
    else:
        image = sitk.GetImageFromArray(lung(seed=seed))
        image.SetSpacing((1.4, 1.3, 1.1))
        sitk.WriteImage(image, str(path))


OWN = ["one.MHD", "two.mha", "site A/two.nii.gz", "site A/deep/four.nii", "five.nrrd"]


def test_own_scans_in_any_folders_are_preprocessed_and_pretrain(tmp_path, run):
    data, save, lists = tmp_path / "own scans", tmp_path / "crops", tmp_path / "lists"
    for name in OWN:
        write_as(data / name, seed=len(Path(name).name.partition(".")[0]))  # the two of one name are the same scan
    status, error = run(data, save, "--scale", 1)
    assert status == 0 and "left out" not in error
    assert set(arrays(save)) == {
        f"{stem}_{kind}_0.npy" for kind in ("global", "local")
        for stem in ("one", "two", "site A/two", "site A/deep/four", "five")
    }  # fmt: skip
    made = open_dataset(name="luna", root=save, lists=ListFolders.at(lists), ratio=1.0, seed=0)
    assert len(made) == 5
    assert sorted((lists / "luna_train.txt").read_text().split()) == [
        "five", "one", "site%20A/deep/four", "site%20A/two", "two",
    ]  # fmt: skip
    # Each has its own draw.
    assert not np.array_equal(*(np.load(save / f"{name}_global_0.npy") for name in ("two", "site A/two")))
    status, error = run(data, save, "--fold", 0)
    assert status == 1 and "--fold: expected scans in subset0" in error and "has 5 elsewhere" in error
    write_as(data / "manifest.nii", 9)
    assert "expected another name" in run(data, save)[1]
    (data / "manifest.nii").rename(data / "two.nii")
    assert run(data, save, "--scale", 1)[0] == 0
    assert {name for name in arrays(save) if name.startswith("two.")} == {
        f"two.{ending}_{kind}_0.npy" for ending in ("mha", "nii") for kind in ("global", "local")
    }  # fmt: skip


def test_masks_beside_subsets_are_no_scans(luna, tmp_path, run):
    write_as(luna / "masks" / "1.3.6.0_lung.mhd", 0)
    status, error = run(luna, tmp_path / "out", "--scale", 1)
    assert status == 0 and len(arrays(tmp_path / "out")) == 6
    assert "1 other volumes are left out (masks/1.3.6.0_lung.mhd)" in error


def test_a_folder_that_cannot_be_read_counts_as_a_scan_that_failed(luna, tmp_path, run, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if Path(path) == luna / "subset2":
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    status, error = run(luna, tmp_path / "out", "--scale", 1)
    assert status == 0 and f"failed: {luna}/subset2: Permission denied" in error
    assert run(luna, tmp_path / "out", "--scale", 1, "--max_bad", 0)[0] == 1


def test_a_path_may_begin_at_home(luna, tmp_path, run, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run("~/luna", "~/out", "--scale", 1)[0] == 0 and len(arrays(tmp_path / "out")) == 6


def test_a_system_that_does_not_tell_which_cores_are_ours(monkeypatch):
    assert available_cores() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert available_cores() == 5 == luna_preprocess.parse_arguments(["--data", "a", "--save", "b"]).workers
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cores() == 1


def test_wrong_world_is_refused(luna, tmp_path):
    done = preprocess(luna, tmp_path / "out", RANK="3", WORLD_SIZE="2")
    assert done.returncode == 2 and "RANK=3" in done.stderr
