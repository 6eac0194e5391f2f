"""A full disk and a folder that cannot be written, at every kind of write: one line, nothing half written, and the
run goes on once there is room."""

import builtins
import errno
import fnmatch
import io
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.catalog.list_folders import ListFolders
from data.crop_pairs import preprocess_scan
from data.datasets.image_cache import CachedImages
from data.datasets.pretraining import open_dataset
from data.pairs import CropSettings
from data.scan_records import Scan, write_record
from engine.curves import CurvePictures
from engine.run_state import LAST, PREVIOUS
from engine.weights import WeightsWriter
from evaluation.results import write_predictions, write_results
from tests.scans import lung, write_scan
from tests.toys import make_trainer
from utils.atomic import TEMPORARY_SUFFIX
from utils.checkpoints import read_checkpoint
from utils.errors import UserError

FAULTS = {"full": errno.ENOSPC, "read-only": errno.EROFS}


class FullFile:
    """A file on a disk with room for nothing more."""

    def __init__(self, file):
        self.file = file

    def write(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writelines = write

    def __getattr__(self, name):
        if name == "fileno":  # libraries that write past Python's file must not find a way either
            raise io.UnsupportedOperation(name)
        return getattr(self.file, name)

    def __enter__(self):
        self.file.__enter__()
        return self

    def __exit__(self, *error):
        return self.file.__exit__(*error)


@pytest.fixture
def break_writes(monkeypatch):
    """break_writes(fault, pattern, mode): writing to files whose name matches fails, until monkeypatch.undo()."""
    whole = builtins.open

    def break_(fault, pattern, only_mode=None):
        def broken(path, mode="r", *args, **kwargs):
            name = Path(path).name if isinstance(path, str | os.PathLike) else ""
            if name.endswith(TEMPORARY_SUFFIX):
                name = name[1:].rpartition(TEMPORARY_SUFFIX)[0]
            if set(mode) & set("wa+x") and only_mode in (None, mode) and fnmatch.fnmatch(name, f"{pattern}*"):
                if fault == "read-only":
                    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
                return FullFile(whole(path, mode, *args, **kwargs))
            return whole(path, mode, *args, **kwargs)

        monkeypatch.setattr(builtins, "open", broken)
        monkeypatch.setattr(io, "open", broken)
        return monkeypatch

    return break_


def temporaries(folder):
    return list(folder.rglob(f".*{TEMPORARY_SUFFIX}"))


def trainer(folder):
    """The toy run, with every file that a pre-training writes."""
    made = make_trainer(folder, epochs=2)

    def picture(epoch, batch):
        made.recorder.image("restorations", torch.rand(3, 8, 9), epoch)

    opt = {"model": "pcrlv2", "n": "luna", "phase": "pretask", "ratio": 1.0, "epochs": 2}
    weights = WeightsWriter(folder, opt, made.task.module.state_dict, made.optimizer)
    made.after_epoch = [picture, CurvePictures(made.recorder, every=1, epochs=2), weights]
    return made


WRITES = [LAST, "run.json", "metrics.jsonl", "pcrlv2_", "restorations.png", "curves.png"]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", WRITES)
def test_a_run_whose_disk_fails_is_one_line_and_goes_on(tmp_path, break_writes, name, fault):
    pytest.importorskip("matplotlib")
    unbroken = trainer(tmp_path / "a")
    unbroken.fit()
    folder = tmp_path / "b"
    first = trainer(folder)
    first.task.interrupt_at = (1, 2)
    with pytest.raises(KeyboardInterrupt):
        first.fit()
    undo = break_writes(fault, name)
    broken = trainer(folder)
    with pytest.raises(UserError) as caught:
        broken.fit(broken.run_state.find("auto"))
    undo.undo()
    assert "\n" not in str(caught.value) and os.strerror(FAULTS[fault]) in str(caught.value)
    assert not temporaries(folder)
    for state in (LAST, PREVIOUS):
        assert "position" in read_checkpoint(folder / "state" / state)
    last = trainer(folder)
    last.fit(last.run_state.find("auto"))
    expected, found = (t.task.module.state_dict() for t in (unbroken, last))
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    names = [sorted(str(p.relative_to(x)) for p in x.rglob("*") if "events" not in p.name) for x in
             (tmp_path / "a", folder)]  # fmt: skip
    assert names[0] == names[1]


@pytest.mark.parametrize("fault", FAULTS)
def test_tensorboard_that_cannot_write_is_no_reason_to_end(tmp_path, break_writes, fault):
    """It writes in a thread of its own, whose curves can be lost; the state cannot."""
    break_writes(fault, "events.out")
    trainer(tmp_path).fit()
    assert read_checkpoint(tmp_path / "state" / LAST)["position"] == [3, 0]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("mode", "name"), [("wb", "scan_global_0.npy"), ("w", "scan.json")])
def test_preprocessing_whose_disk_fails_is_one_line_and_goes_on(tmp_path, break_writes, mode, name, fault):
    (tmp_path / "luna").mkdir()
    scan = Scan(write_scan(tmp_path / "luna" / "scan.mhd", lung((60, 110, 100)), spacing=(1.4, 1.3, 1.1)), tmp_path)
    settings = CropSettings((16, 24, 8), (1.0, 1.0), pairs=2, seed=1, dtype="float32")
    # Crops bear the record's temporary name until they are whole.
    undo = break_writes(fault, "scan.json", mode)
    with pytest.raises(UserError, match=os.strerror(FAULTS[fault])) as caught:
        preprocess_scan(scan, settings)
    undo.undo()
    assert name in str(caught.value) and not temporaries(tmp_path)
    assert not scan.record_file.exists(), "a scan without all of its crops is not finished"
    for path in tmp_path.glob("*.npy"):
        np.load(path)
    assert preprocess_scan(scan, settings)["pairs"] == 2
    write_record(scan, {"scan": "scan"})


@pytest.mark.parametrize(("name", "fault"), [
    ("chest_train.txt", "full"), ("chest_train.txt", "read-only"), ("*.pixels", "read-only"), ("*.sizes", "read-only"),
    ("*.whole", "read-only"),
])  # fmt: skip
def test_lists_and_cache_on_a_disk_that_fails(tmp_path, break_writes, name, fault):
    (tmp_path / "images").mkdir()
    for i in range(3):
        Image.fromarray(np.full((9, 7 + i), i, dtype=np.uint8)).save(tmp_path / "images" / f"0000000{i}_000.png")

    def fill():
        lists = {
            "name": "chest",
            "root": tmp_path,
            "lists": ListFolders.at(tmp_path / "lists"),
            "ratio": 1.0,
            "seed": 0,
        }
        return CachedImages(open_dataset(**lists), tmp_path / "cache", size=8).fill(workers=0)

    undo = break_writes(fault, name)
    with pytest.raises(UserError, match=os.strerror(FAULTS[fault])):
        fill()
    undo.undo()
    assert not temporaries(tmp_path)
    assert len(fill()) == 3


def test_a_cache_without_room_is_refused_before_anything_is_mapped(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((9, 7), dtype=np.uint8)).save(tmp_path / "images" / "00000000_000.png")

    def full(descriptor, offset, length):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    images = open_dataset(name="chest", root=tmp_path, lists=ListFolders.at(tmp_path / "lists"), ratio=1.0, seed=0)
    with pytest.raises(UserError, match="--cache: cannot write .*: No space left"):
        CachedImages(images, tmp_path / "cache", size=8).fill(workers=0)


@pytest.mark.parametrize("fault", FAULTS)
def test_results_on_a_disk_that_fails(tmp_path, break_writes, fault):
    undo = break_writes(fault, "results.json")
    with pytest.raises(UserError, match=os.strerror(FAULTS[fault])):
        write_results(tmp_path, {"a": 1})
    undo.undo()
    undo = break_writes(fault, "predictions.csv")
    with pytest.raises(UserError, match=os.strerror(FAULTS[fault])):
        write_predictions(tmp_path / "predictions.csv", ["a"], np.zeros((1, 1)), np.zeros((1, 1)), ["x"])
    undo.undo()
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_really_full(tmp_path):
    """A file system of 200 kB, where the system lets us make one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        scan = Scan(write_scan(tmp_path / "scan.mhd", lung((60, 110, 100)), spacing=(1.4, 1.3, 1.1)), disk)
        settings = CropSettings((16, 24, 8), (1.0, 1.0), pairs=9, seed=1, dtype="float32")
        with pytest.raises(UserError, match="No space left on device|is the disk full"):
            preprocess_scan(scan, settings)
        assert not temporaries(disk) and not scan.record_file.exists()
        for path in disk.glob("*.npy"):
            np.load(path)
    finally:
        subprocess.run(["umount", disk], check=True)
