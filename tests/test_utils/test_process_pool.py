"""Many items over several processes: workers that die or cannot start, items that kill, a parent that is killed."""

import errno
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from utils import process_pool
from utils.errors import UserError
from utils.process_pool import run_jobs


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


def _kill_beside_slow(item):
    name, folder = item
    at_work, kills = folder / "slow is at work", folder / "kills"
    if name == "slow":
        before = kills.read_text() if kills.exists() else ""
        at_work.touch()
        _wait_until(lambda: kills.exists() and kills.read_text() != before)
        time.sleep(0.5)  # until the death of the other worker has been noticed
    elif name == "killer":
        _wait_until(at_work.exists)
        at_work.unlink(missing_ok=True)
        with open(kills, "a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        time.sleep(0.02)  # a pool looks for dead workers when something is done
    return name


def _wait_until(condition, seconds=1.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


def test_an_item_at_work_beside_one_that_kills_workers_is_not_blamed(tmp_path):
    names = ["slow", "killer", *map(str, range(100))]
    results = {name: result for (name, _), result in run_jobs(_kill_beside_slow, [(n, tmp_path) for n in names],
                                                              workers=3)}  # fmt: skip
    assert "workers died" in str(results.pop("killer")) and all(name == result for name, result in results.items())
    assert len(results) == 101


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


@pytest.mark.parametrize("step", ["__init__", "submit"])
def test_processes_that_cannot_be_started_are_one_line_and_one_process_needs_none(monkeypatch, step):
    def refuse(*arguments, **named):
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(process_pool.ProcessPoolExecutor, step, refuse)
    expected = r"worker processes cannot be started \(Resource temporarily unavailable\); give less to --workers, or 1"
    with pytest.raises(UserError, match=expected):
        list(run_jobs(abs, [-1, -2], workers=2))
    assert list(run_jobs(abs, [-1, -2], workers=1)) == [(-1, 1), (-2, 2)]
