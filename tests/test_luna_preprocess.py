"""luna_preprocess.py as people run it: folders, workers, kills, reruns and scans that give nothing."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import luna_preprocess
from data import crop_pairs
from data.crops import LOCAL_SHAPE
from tests.scans import lung, write_scan
from utils.errors import UserError
from utils.process_pool import run_jobs

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
    assert done.stderr.count("borders shrink") == 3  # once a scan


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
            monkeypatch.setattr(crop_pairs, "reachable_region", lambda room, shape: (slice(None),) * 3)
        scan = crop_pairs.Scan(luna / "subset1" / "1.3.6.1.mhd", tmp_path / str(needed))
        scan.target.mkdir()
        crop_pairs.preprocess_scan(scan, crop_pairs.CropSettings((16, 24, 8), (0.5, 0.5), 6, 0, "float32"))
        made[needed] = arrays(scan.target)
    assert len(made[True]) == 12 and same(made[True], made[False])


def test_a_scan_half_made_with_other_settings_is_made_anew(luna, tmp_path):
    save, options = tmp_path / "out", ["--workers", "1", "--fold", "0"]
    assert preprocess(luna, save, *options).returncode == 0
    before, record = arrays(save), save / "subset0" / "1.3.6.0.json"
    scan = crop_pairs.Scan(luna / "subset0" / "1.3.6.0.mhd", save / "subset0")
    other = crop_pairs.CropSettings((16, 24, 8), (1, 1), 2, 7, "float32")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(crop_pairs.FileGroup, "sync", lambda group: (_ for _ in ()).throw(KeyboardInterrupt))
        crop_pairs.preprocess_scan(scan, other)
    assert not record.exists() and not same(before, arrays(save))
    assert preprocess(luna, save, *options).returncode == 0
    assert same(before, arrays(save))


def test_scans_that_give_no_pair_are_reported_and_the_others_made(luna, tmp_path):
    bone = np.full((60, 110, 100), 700, dtype=np.int16)
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


def _die_once(item):
    flag, number = item
    if number == 3 and not Path(flag).exists():
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def _die_always(item):
    if item == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    if item == 4:
        raise UserError("four")
    return item


def test_a_killed_worker_is_replaced(tmp_path):
    items = [(str(tmp_path / "flag"), number) for number in range(6)]
    assert {number: result for (_, number), result in run_jobs(_die_once, items, workers=2)} == {
        number: number**2 for number in range(6)
    }


def _note_and_sleep(path):
    Path(path).write_text(str(os.getpid()))
    time.sleep(600)


def _run_for_ever(folder):
    list(run_jobs(_note_and_sleep, [str(folder / name) for name in "ab"], workers=2))


def test_workers_end_with_the_process_that_started_them(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_run_for_ever, args=(tmp_path,))
    process.start()
    deadline = time.monotonic() + 60
    while not all((tmp_path / name).exists() and (tmp_path / name).read_text() for name in "ab"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.join()
    workers = [Path("/proc") / (tmp_path / name).read_text() / "stat" for name in "ab"]
    # A worker whose parent is gone may stay in the list of processes as a zombie.
    while any(stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z" for stat in workers):
        assert time.monotonic() < deadline, "workers are still there"
        time.sleep(0.05)


def test_an_item_that_kills_workers_is_given_up_and_nothing_else(tmp_path):
    results = dict(run_jobs(_die_always, range(1, 6), workers=2))
    assert set(results) == {1, 2, 3, 4, 5} and "workers died" in str(results.pop(2)) and str(results.pop(4)) == "four"
    assert all(item == result for item, result in results.items())


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


def test_wrong_world_is_refused(luna, tmp_path):
    done = preprocess(luna, tmp_path / "out", RANK="3", WORLD_SIZE="2")
    assert done.returncode == 2 and "RANK=3" in done.stderr
