"""A disk that is full at any byte: one line, what was there stays, nothing half written."""

import json
import os
import shutil
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from engine.run_state import LAST, PREVIOUS, Position, RunState
from tests.small_disk import SmallDisk
from tests.toys import make_trainer
from utils.atomic import TEMPORARY_SUFFIX, whole_file
from utils.checkpoints import read_checkpoint, save_checkpoint
from utils.errors import UserError
from utils.file_group import FileGroup

# A thread's traceback, which is printed outside of tests.
pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")

FULL = "No space left on device"
# A tensor above the 8 kB that Python's files buffer, and many below.
STATE = {"large": torch.arange(3000.0), **{f"small{i}": torch.full((7,), float(i)) for i in range(8)}}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_full_at_any_byte(monkeypatch, folder, write, steps=40):
    """``write`` on disks with room for nothing, for all but a byte, and for ``steps`` sizes in between."""
    before = contents(folder)
    with monkeypatch.context() as patch:
        disk = SmallDisk(patch, 10**9)
        write()
    needed, after = disk.written, contents(folder)
    assert needed > 0 and after != before
    for room in sorted({*np.linspace(0, needed - 1, steps).astype(int).tolist(), needed - 1}):
        for path in folder.rglob("*"):
            if path.is_file():
                path.unlink()
        for name, content in before.items():
            (folder / name).write_bytes(content)
        with monkeypatch.context() as patch:
            SmallDisk(patch, room)
            with pytest.raises(UserError) as caught:
                write()
        assert FULL in str(caught.value) and "\n" not in str(caught.value), room
        assert contents(folder) == before, room
    write()
    assert contents(folder).keys() == after.keys()


def write_text(folder):
    with whole_file(folder / "file", "w") as file:
        json.dump({str(i): i for i in range(5000)}, file)


def write_png(folder):
    noise = np.random.default_rng(0).integers(0, 256, (90, 120), dtype=np.uint8)
    with whole_file(folder / "file") as file:
        Image.fromarray(noise).save(file, format="PNG")


def write_curves(folder):
    curves = pytest.importorskip("engine.curves")
    pytest.importorskip("matplotlib")
    curves.write_curves([{"epoch": i, "total": 1 / (i + 1)} for i in range(5)], folder / "file")


def write_group(folder):
    with FileGroup(folder / "last").file(folder / "file") as file:
        torch.save(STATE, file)


WRITERS = {
    "checkpoint": lambda folder: save_checkpoint(folder / "file", STATE),
    "text": write_text,
    "png": write_png,
    "group": write_group,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_is_old_or_new(tmp_path, monkeypatch, name):
    (tmp_path / "file").write_bytes(b"old")
    assert_full_at_any_byte(monkeypatch, tmp_path, lambda: WRITERS[name](tmp_path))


def test_curves(tmp_path, monkeypatch):
    assert_full_at_any_byte(monkeypatch, tmp_path, lambda: write_curves(tmp_path), steps=2)


def no_links(*names):
    raise OSError(95, "Operation not supported")


@pytest.mark.parametrize("link", [os.link, no_links])
def test_states_of_before_stay(tmp_path, monkeypatch, link):
    monkeypatch.setattr(os, "link", link)
    run_state = RunState(tmp_path, fixed={"lr": 1.0}, save_minutes=1)
    for step in range(2):
        run_state.save(Position(0, step), STATE)
    # Copies that the system makes would go past a disk that is only pretended.
    monkeypatch.setattr(shutil, "_USE_CP_SENDFILE", False)
    assert_full_at_any_byte(monkeypatch, tmp_path, lambda: run_state.save(Position(0, 2), STATE))
    assert [read_checkpoint(tmp_path / name)["position"] for name in (LAST, PREVIOUS)] == [[0, 2], [0, 1]]


def test_a_library_that_hides_the_error_does_not_hide_it_from_the_user(tmp_path, monkeypatch):
    SmallDisk(monkeypatch, 10)

    def write():
        with whole_file(tmp_path / "file") as file:
            try:
                file.write(b"x" * 100_000)
            except OSError:
                raise RuntimeError("unexpected pos 64 vs 0") from None

    with pytest.raises(UserError, match=f"cannot write {tmp_path / 'file'}: {FULL}"):
        write()
    assert not list(tmp_path.glob(f"*{TEMPORARY_SUFFIX}"))


def test_an_error_of_another_kind_stays_what_it_is(tmp_path):
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "file") as file:
        file.write(b"x")
        raise ZeroDivisionError


def events_end(said):
    return said.count("TensorBoard's curves end here")


def test_tensorboard_ends_with_one_line_and_the_run_goes_on(tmp_path, monkeypatch, capfd):
    hook = threading.excepthook
    for room in (0, 10, 200):
        with monkeypatch.context() as patch:
            SmallDisk(patch, room, only="events.out")
            make_trainer(tmp_path / str(room), epochs=1).fit()
        said = capfd.readouterr().err
        assert events_end(said) == 1 and "Traceback" not in said and FULL in said, said
    make_trainer(tmp_path / "whole", epochs=1).fit()
    assert not events_end(capfd.readouterr().err) and threading.excepthook is hook


def test_a_run_whose_disk_fills_up_at_any_time_is_one_line_and_goes_on(tmp_path, monkeypatch, capfd):
    def trainer(folder):
        made = make_trainer(folder, epochs=1)
        made.after_epoch = [lambda epoch, batch: made.recorder.image("restorations", torch.ones(3, 8, 9), epoch)]
        return made

    unbroken = trainer(tmp_path / "whole")
    with monkeypatch.context() as patch:
        disk = SmallDisk(patch, 10**9)
        unbroken.fit()
    expected = unbroken.task.module.state_dict()
    for room in np.linspace(0, 0.9 * disk.written, 5).astype(int).tolist():
        folder = tmp_path / str(room)
        with monkeypatch.context() as patch:
            SmallDisk(patch, room)
            with pytest.raises(UserError, match=FULL) as caught:
                trainer(folder).fit()
        said = capfd.readouterr().err
        assert "\n" not in str(caught.value) and "Traceback" not in said and events_end(said) <= 1
        again = trainer(folder)
        again.fit(again.run_state.find("auto"))
        found = again.task.module.state_dict()
        assert all(torch.equal(expected[name], found[name]) for name in expected)
        lines = [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert lines == [0, 1] and not list(folder.rglob(f".*{TEMPORARY_SUFFIX}"))
