"""One run at a time in a folder."""

import errno
import os
import re
import signal
import time

import pytest

from tests.processes import CONTEXT, run_together
from tests.programs import run
from utils import output_lock
from utils.errors import UserError
from utils.output_lock import FILE, lock_output, unlock_output
from utils.world import World


@pytest.fixture(autouse=True)
def let_go():
    yield
    unlock_output()


def hold(folder, ready):
    """In a process of its own: hold the folder until killed, with a worker that lives on."""
    lock_output(folder, World())
    if not (worker := os.fork()):
        time.sleep(60)
        os._exit(0)
    ready.put(worker)
    time.sleep(60)


def another_run(folder):
    """(process, id of its worker) of a run that holds the folder."""
    ready = CONTEXT.SimpleQueue()
    process = CONTEXT.Process(target=hold, args=(folder, ready))
    process.start()
    return process, ready.get()


@pytest.fixture
def other(tmp_path):
    process, worker = another_run(tmp_path)
    yield process
    process.kill()
    process.join()
    os.kill(worker, signal.SIGKILL)


def test_the_second_run_is_refused_by_name_and_goes_ahead_when_the_first_is_killed(tmp_path, other):
    for _ in range(2):
        expected = (
            rf"--output: another run \(process {other.pid} on \S+ since .*\) writes in {re.escape(str(tmp_path))}"
        )
        with pytest.raises(UserError, match=expected) as caught:
            lock_output(tmp_path, World())
        assert "\n" not in str(caught.value)
    lock_output(tmp_path / "another", World())
    other.kill()
    other.join()
    lock_output(tmp_path, World())
    assert str(os.getpid()) in (tmp_path / FILE).read_text(), "the worker that it left holds nothing"


def test_what_is_let_go_of_is_free(tmp_path):
    lock_output(tmp_path, World())
    unlock_output()
    process, worker = another_run(tmp_path)
    with pytest.raises(UserError, match="another run"):
        lock_output(tmp_path, World())
    process.kill()
    process.join()
    os.kill(worker, signal.SIGKILL)


def test_processes_of_one_run_hold_it_together(tmp_path, other):
    lock_output(tmp_path, World(rank=1, size=2, local_rank=1))


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_and_used(tmp_path, monkeypatch, capsys, number):
    def refuse(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(output_lock.fcntl, "lockf", refuse)
    lock_output(tmp_path, World())
    assert "does not support locks" in capsys.readouterr().err


def test_a_system_without_record_locks_is_said_and_used(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(output_lock, "fcntl", None)
    lock_output(tmp_path, World())
    assert "does not support locks" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="--output: cannot write in .*: Not a directory|File exists"):
        lock_output(tmp_path / "file" / "run", World())
    with pytest.raises(UserError, match="--output: cannot write in .*file: File exists"):
        lock_output(tmp_path / "file", World())


PHASES = {"pretask": [], "finetune": ["--weight", "none"], "probe": ["--weight", "none"]}


@pytest.mark.parametrize("phase", PHASES)
def test_every_phase_is_refused_before_it_reads_or_writes_anything(tmp_path, other, monkeypatch, capsys, phase):
    typed = ["--phase", phase, "--n", "chest", "--d", 2, "--data", tmp_path / "none", "--output", tmp_path]
    status, said = run(monkeypatch, capsys, *typed, *PHASES[phase])
    assert status == 1 and "main.py: error: --output: another run (process" in said and "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_all_processes_of_a_run_that_is_refused_end_with_one_line(tmp_path, other):
    typed = ["--n", "chest", "--d", 2, "--b", 4, "--data", tmp_path / "none", "--output", tmp_path]
    logs = tmp_path / "logs"
    logs.mkdir()
    statuses, said = run_together(typed, logs)
    assert statuses == [1, 1] and all("another run (process" in text for text in said), said
