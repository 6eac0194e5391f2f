"""Loader workers without enough shared memory, or killed, in every loader: one line with what to do."""

import errno
import os
import signal

import pytest
import torch

from data.evaluation_loader import EvaluationLoader
from data.loader import Loader
from utils.errors import UserError
from utils.workers import RESTARTS, read_with_workers

FULL = "unable to allocate shared memory(shm) for file </torch_12_3_4>: No space left on device (28)"


class Samples:
    """Sample i is the number i; reading or collating one of them does something to its worker."""

    fingerprint = "samples"

    def __init__(self, at=None, do=None):
        self.at, self.do, self.patients = at, do, []

    def __len__(self):
        return 12

    def name(self, index):
        return str(index)

    def __getitem__(self, index):
        if index == self.at:
            self.do()
        return (torch.tensor(index),)

    def collate(self, samples):
        return (torch.stack([sample for (sample,) in samples]),)


class FullAtCollating(Samples):
    def collate(self, samples):
        raise RuntimeError(FULL)


def training(dataset, workers=2):
    return Loader(dataset, batch_size=4, workers=workers, seed=0).batches(0)


def evaluation(dataset, workers=2):
    return iter(EvaluationLoader(dataset, batch_size=4, workers=workers))


LOADERS = [training, evaluation]


def fail():
    raise RuntimeError(FULL)


def bus_error():
    os.kill(os.getpid(), signal.SIGBUS)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def assert_says_what_to_do(said, reason):
    assert "\n" not in said and reason in said and "--workers, or 0" in said and "--shm-size" in said


@pytest.mark.parametrize("do", [fail, bus_error])
@pytest.mark.parametrize("open_loader", LOADERS)
def test_shared_memory_that_is_too_small_is_one_line(open_loader, do, capfd):
    with pytest.raises(UserError) as caught:
        list(open_loader(Samples(5, do)))
    assert_says_what_to_do(str(caught.value), "us error" if do is bus_error else "No space left on device")
    assert " MB free" in str(caught.value) and "a loader worker died" not in capfd.readouterr().err


def test_batches_that_find_no_room_are_one_line():
    with pytest.raises(UserError) as caught:
        list(training(FullAtCollating(), workers=1))
    assert_says_what_to_do(str(caught.value), "No space left on device")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EAGAIN, errno.EMFILE])
@pytest.mark.parametrize("open_loader", LOADERS)
def test_workers_that_cannot_be_started_are_one_line(open_loader, number, monkeypatch):
    def refuse(*arguments, **named):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(torch.multiprocessing, "Queue", refuse)
    with pytest.raises(UserError) as caught:
        list(open_loader(Samples()))
    assert_says_what_to_do(str(caught.value), os.strerror(number))
    assert len(list(open_loader(Samples(), workers=0))) == 3


def test_an_evaluation_goes_on_from_the_batch_at_which_a_worker_was_killed(tmp_path, capfd):
    def die_once():
        if not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            die()

    found = list(evaluation(Samples(5, die_once), workers=1))
    assert [indices for indices, _ in found] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert [batch[0].tolist() for _, batch in found] == [indices for indices, _ in found]
    assert capfd.readouterr().err.count("starting new ones") == 1


def test_workers_that_die_again_and_again_end_an_evaluation(capfd):
    with pytest.raises(UserError, match=f"loader workers died {RESTARTS + 1} times .*; use a smaller --workers, or 0"):
        list(evaluation(Samples(5, die)))


def test_a_bug_stays_a_bug_and_without_workers_errors_are_ones_own():
    with pytest.raises(RuntimeError, match="a bug"):
        list(read_with_workers(lambda read, deaths: (_ for _ in [0] if bug("a bug")), 1, workers=1))
    with pytest.raises(OSError, match="of the user's"):
        list(read_with_workers(lambda read, deaths: (_ for _ in [0] if bug("of the user's", OSError)), 1, workers=0))


def bug(text, kind=RuntimeError):
    raise kind(text)
