"""Files that count once a last one is there."""

import os
from pathlib import Path

import pytest

from utils.atomic import whole_file
from utils.errors import UserError
from utils.file_group import FileGroup


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_files_are_there_when_their_block_ends_and_nothing_else(tmp_path):
    group = FileGroup(tmp_path / "last")
    for name in "ab":
        with group.file(tmp_path / name) as file:
            file.write(name.encode())
            assert not (tmp_path / name).exists()
    assert names(tmp_path) == ["a", "b"] and (tmp_path / "b").read_bytes() == b"b"


def test_a_block_that_fails_leaves_the_old_file(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), FileGroup(tmp_path / "last").file(tmp_path / "a") as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "old"


def test_all_are_put_on_the_disk_by_sync(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink()))
    group = FileGroup(tmp_path / "last")
    for name in "ab":
        with group.file(tmp_path / name):
            pass
    assert not synced
    group.sync()
    assert synced == [tmp_path / "a", tmp_path / "b"]


def test_what_a_killed_process_left_goes_with_the_last_file(tmp_path):
    process = os.fork()
    if not process:
        with FileGroup(tmp_path / "last").file(tmp_path / "a") as file:
            file.write(b"half")
            file.flush()
            os.kill(os.getpid(), 9)
    os.waitpid(process, 0)
    assert len(names(tmp_path)) == 1
    with whole_file(tmp_path / "last"):
        pass
    assert names(tmp_path) == ["last"]


def test_errors_are_one_line(tmp_path):
    group = FileGroup(tmp_path / "none" / "last")
    with pytest.raises(UserError, match="cannot write .*a: No such file"), group.file(tmp_path / "none" / "a"):
        pass
    group = FileGroup(tmp_path / "last")
    with group.file(tmp_path / "a"):
        pass
    (tmp_path / "a").unlink()
    with pytest.raises(UserError, match="cannot write"):
        group.sync()
