"""Files that are there whole or not at all, whatever happens on the way."""

import errno
import os
import re
import signal

import pytest

from utils.atomic import TEMPORARY_SUFFIX, temporary_name, whole_file
from utils.errors import UserError


@pytest.fixture
def path(tmp_path):
    """A file with old content, alone in its folder."""
    path = tmp_path / "folder" / "weights.pt"
    path.parent.mkdir()
    path.write_bytes(b"old")
    return path


def assert_untouched(path):
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def killed_while_writing(path):
    """The id of a killed child process, whose end has not been asked for."""
    child = os.fork()
    if child == 0:
        with whole_file(path) as file:
            file.write(b"half")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    return child


def test_new_content_takes_the_place_of_the_old(path):
    with whole_file(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
        (temporary,) = set(path.parent.iterdir()) - {path}
        assert temporary.name.endswith(TEMPORARY_SUFFIX) and temporary.name.startswith(".")
    assert path.read_bytes() == b"new" and list(path.parent.iterdir()) == [path]


def test_a_first_file_and_text(tmp_path):
    with whole_file(str(tmp_path / "a.txt"), "w") as file:
        file.write("é\n中\n")
    assert (tmp_path / "a.txt").read_bytes() == "é\n中\n".encode()
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_an_exception_in_the_block_leaves_the_old_content_and_nothing_else(path, error):
    with pytest.raises(type(error)) as caught, whole_file(path) as file:
        file.write(b"half")
        raise error
    assert caught.value is error
    assert_untouched(path)


def test_a_full_disk_is_one_line(path):
    with pytest.raises(UserError) as caught, whole_file(path) as file:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    expected = f"cannot write {path}: No space left on device; nothing was left half written"
    assert str(caught.value) == expected
    assert_untouched(path)


def test_a_disk_that_is_full_only_when_flushed_leaves_the_old(path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"), whole_file(path) as file:
        file.write(b"half")
    assert_untouched(path)


def test_before_replace_sees_all_of_the_new_and_still_the_old(path, monkeypatch):
    seen = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (seen.append("fsync"), fsync(descriptor)))

    def look():
        (temporary,) = set(path.parent.iterdir()) - {path}
        seen.append((path.read_bytes(), temporary.read_bytes()))

    with whole_file(path, before_replace=look) as file:
        file.write(b"new")
    assert seen == ["fsync", (b"old", b"new"), "fsync"], "the data, then the name of the file, go to the disk"
    assert path.read_bytes() == b"new"


def test_before_replace_is_not_called_for_a_block_that_failed_and_may_fail_itself(path):
    called = []
    with pytest.raises(ValueError, match="x"), whole_file(path, before_replace=lambda: called.append(1)):
        raise ValueError("x")
    assert not called

    def fail():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"), whole_file(path, before_replace=fail) as file:
        file.write(b"new")
    assert_untouched(path)


def test_a_process_killed_in_the_block_leaves_the_old_content(path):
    child = killed_while_writing(path)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert path.read_bytes() == b"old" and len(list(path.parent.iterdir())) == 2
    with whole_file(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new" and list(path.parent.iterdir()) == [path], "what the killed one left goes"


def test_a_killed_process_that_nobody_asked_after_holds_nothing(path):
    child = killed_while_writing(path)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    try:
        os.kill(child, 0)
        with whole_file(path) as file:
            file.write(b"new")
        assert path.read_bytes() == b"new" and list(path.parent.iterdir()) == [path]
    finally:
        os.waitpid(child, 0)


def test_only_what_is_nobodys_any_more_is_removed(path, monkeypatch):
    ours, parent = temporary_name(path), os.getppid()
    living = path.with_name(ours.name.replace(f".{os.getpid()}.", f".{parent}."))
    elsewhere = [path.with_name(f".{path.name}.{host}.7{TEMPORARY_SUFFIX}") for host in ("other", "third")]
    another = path.with_name(ours.name.replace("weights", "others").replace(f".{os.getpid()}.", ".99999999."))
    for file in (living, *elsewhere, another):
        file.write_bytes(b"half")
    os.utime(elsewhere[1], (1, 1))
    with whole_file(path) as file:
        file.write(b"new")
    assert set(path.parent.iterdir()) == {path, living, elsewhere[0], another}


@pytest.mark.parametrize(("name", "reason"), [
    ("none/a.pt", "No such file or directory"),
    ("file/a.pt", "Not a directory"),
    ("folder", "Is a directory"),
    (f"{'long' * 60}.pt", "File name too long"),
])  # fmt: skip
def test_a_place_that_cannot_be_written_is_one_line(tmp_path, name, reason):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    expected = f"^cannot write {re.escape(str(tmp_path / name))}: {reason}; nothing was left half written$"
    with pytest.raises(UserError, match=expected), whole_file(tmp_path / name) as file:
        file.write(b"new")
    assert sorted(tmp_path.rglob("*")) == before
