"""The order of batches, ranks and workers, broken samples, and workers that die."""

import os
import signal
import time
from itertools import chain
from multiprocessing import active_children

import pytest
import torch

from data.loader import TRIES, Loader
from utils.errors import UsageError, UserError
from utils.workers import RESTARTS


class Numbers:
    """Sample i is the number i; some are broken, and some kill the worker that reads them."""

    fingerprint = "numbers"

    def __init__(self, n=23, *, broken=(), deadly=(), flag=None, bug=None):
        self.n, self.broken, self.deadly, self.flag, self.bug = n, set(broken), set(deadly), flag, bug

    def __len__(self):
        return self.n

    def name(self, index):
        return f"sample{index}"

    def __getitem__(self, index):
        if index in self.broken:
            raise (UserError if index % 2 else OSError)(f"sample{index} is damaged")
        if index in self.deadly and not (self.flag and self.flag.exists()):
            if self.flag:
                self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if index == self.bug:
            raise RuntimeError("a bug of the data set")
        return (torch.tensor(index),)

    def collate(self, samples):
        return (torch.stack([sample for (sample,) in samples]),)


def make(dataset=None, *, batch_size=4, workers=0, seed=1, **kwargs):
    return Loader(
        Numbers() if dataset is None else dataset, batch_size=batch_size, workers=workers, seed=seed, **kwargs
    )


def pull(loader, epoch=0, first_step=0):
    return [batch[0].tolist() for batch in loader.batches(epoch, first_step)]


def flat(batches):
    return list(chain.from_iterable(batches))


def first_batch_and_worker(loader):
    """The batches of an epoch, the first of them, and the one process that reads them."""
    others = set(active_children())
    batches = loader.batches(0)
    first = next(batches)[0].tolist()
    (worker,) = set(active_children()) - others
    return batches, first, worker


def test_the_order_is_a_pure_function_of_seed_and_epoch():
    loader = make()
    epochs = [pull(loader, epoch) for epoch in (0, 1, 2)]
    assert pull(loader, 1) == epochs[1] == pull(make(), 1)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert pull(make(seed=2), 0) != epochs[0]


@pytest.mark.parametrize(("n", "steps"), [(23, 5), (24, 6), (4, 1), (7, 1)])
def test_each_sample_comes_once_and_the_last_incomplete_batch_is_dropped(n, steps):
    loader = make(Numbers(n))
    batches = pull(loader)
    assert loader.steps_per_epoch == len(batches) == steps
    seen = [i for batch in batches for i in batch]
    assert [len(batch) for batch in batches] == [4] * steps
    assert len(set(seen)) == 4 * steps and set(seen) <= set(range(n))
    dropped = [set(range(n)) - {i for batch in pull(loader, epoch) for i in batch} for epoch in range(8)]
    assert len(set(map(frozenset, dropped))) > 1 or n % 4 == 0


def test_an_incomplete_batch_is_kept_where_it_is_the_only_one():
    loader = make(Numbers(7), batch_size=64)
    assert loader.steps_per_epoch == 1 and loader.batch_size == 7
    (batch,) = pull(loader)
    assert sorted(batch) == list(range(7))
    two = [make(Numbers(7), batch_size=64, rank=rank, world_size=2) for rank in (0, 1)]
    parts = [pull(loader)[0] for loader in two]
    assert [len(part) for part in parts] == [3, 3] and parts[0] + parts[1] == batch[:6]


@pytest.mark.parametrize("workers", [0, 2])
def test_any_first_step_gives_the_tail_of_the_same_epoch(workers):
    loader = make(workers=workers)
    whole = pull(make(), epoch=3)
    for first_step in (1, 4, 0, 5, 3):
        assert pull(loader, 3, first_step) == whole[first_step:]


def test_workers_change_nothing_even_when_an_epoch_is_left_early():
    none, two = make(), make(workers=2)
    for epoch in (0, 1):
        assert pull(two, epoch) == pull(none, epoch)
    left = two.batches(2)
    assert next(left)[0].tolist() == pull(none, 2)[0]
    left.close()
    assert pull(two, 3) == pull(none, 3)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_partition_the_batches_of_one(world_size):
    one = pull(make(batch_size=6), epoch=1)
    ranks = [pull(make(batch_size=6, rank=r, world_size=world_size), epoch=1) for r in range(world_size)]
    assert [flat(parts) for parts in zip(*ranks, strict=True)] == one
    assert {len(part) for parts in ranks for part in parts} == {6 // world_size}


def test_a_batch_that_does_not_divide_is_a_usage_error():
    with pytest.raises(UsageError, match="--b: expected a multiple of the 3 processes, got 4"):
        make(world_size=3)


def test_too_few_samples_are_reported():
    for n, world_size in [(0, 1), (1, 1), (3, 2)]:
        message = f"--data: expected at least two samples .* each of {world_size} processes, got {n}"
        with pytest.raises(UserError, match=message):
            make(Numbers(n), world_size=world_size)
    assert make(Numbers(2)).batch_size == 2 and make(Numbers(4), world_size=2).batch_size == 4


def test_a_batch_of_one_is_blamed_on_the_batch():
    with pytest.raises(UserError, match="--b: .* got 1"):
        make(Numbers(50), batch_size=1)


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_samples_are_replaced_counted_and_named(workers, capsys):
    dataset = Numbers(40, broken=[3, 8, 17])
    loader = make(dataset, workers=workers, max_bad=0.075)
    whole, sound = pull(loader), pull(make(Numbers(40)))
    assert loader.bad == {f"sample{i}": f"sample{i} is damaged" for i in (3, 8, 17)}
    lines = capsys.readouterr().err.splitlines()
    assert sorted(lines) == sorted(f"replaced a broken sample: sample{i} is damaged" for i in (3, 8, 17))
    for ours, other in zip(flat(whole), flat(sound), strict=True):
        assert ours == other if other not in dataset.broken else ours not in dataset.broken
    assert pull(loader) == whole, "a replacement is drawn from (seed, epoch, sample)"
    assert capsys.readouterr().err == ""


def test_replacements_differ_between_samples_and_epochs():
    loader = make(Numbers(400, broken=range(8)), batch_size=400, max_bad=1)
    sound = make(Numbers(400), batch_size=400)
    replaced = []
    for epoch in (0, 1):
        pairs = zip(flat(pull(loader, epoch)), flat(pull(sound, epoch)), strict=True)
        replaced.append([ours for ours, other in sorted(pairs, key=lambda pair: pair[1]) if other < 8])
    assert len(set(replaced[0])) > 4 and replaced[0] != replaced[1]


@pytest.mark.parametrize("workers", [0, 1])
def test_more_broken_samples_than_allowed_end_the_run(workers):
    loader = make(Numbers(40, broken=[3, 8, 17]), workers=workers, max_bad=0.05)
    message = "--max_bad: 3 of 40 samples are broken, .* 0.05 allowed; repair .* larger --max_bad; the first: sample"
    with pytest.raises(UserError, match=message):
        pull(loader)
    with pytest.raises(UserError, match="--max_bad: 1 of 40"):
        pull(make(Numbers(40, broken=[5]), workers=workers, max_bad=0))


@pytest.mark.parametrize("workers", [0, 1])
def test_samples_that_are_all_broken_end_the_run_in_one_line(workers):
    loader = make(Numbers(30, broken=range(30)), workers=workers, max_bad=1)
    with pytest.raises(UserError, match=f"{TRIES} samples in a row could not be read, the last: sample") as caught:
        pull(loader)
    assert "\n" not in str(caught.value)


def test_a_worker_that_is_killed_is_replaced_and_no_batch_is_lost(tmp_path, capfd):
    dataset = Numbers(deadly=[11], flag=tmp_path / "died")
    loader = make(dataset, workers=2)
    assert pull(loader) == pull(make())
    assert dataset.flag.exists()
    assert capfd.readouterr().err.count("a loader worker died") == 1
    assert pull(loader, 1) == pull(make(), 1)


def test_a_worker_killed_while_a_batch_is_in_use_does_not_break_into_its_use():
    batches, first, worker = first_batch_and_worker(make(Numbers(40), workers=1))
    worker.kill()
    while worker.is_alive():
        time.sleep(0.01)
    assert [first] + [batch[0].tolist() for batch in batches] == pull(make(Numbers(40)))


def test_workers_that_die_again_and_again_end_the_run(capfd):
    loader = make(Numbers(deadly=range(23)), workers=1)
    with pytest.raises(UserError, match="worker"):
        pull(loader)
    assert capfd.readouterr().err.count("a loader worker died") == RESTARTS


def test_a_bug_in_the_data_set_is_no_death_of_a_worker(capfd):
    for workers in (0, 1):
        with pytest.raises(RuntimeError, match="a bug of the data set"):
            pull(make(Numbers(bug=5), workers=workers))
    assert "worker died" not in capfd.readouterr().err


def test_workers_leave_stopping_to_the_main_process():
    loader = make(Numbers(40), workers=1)
    batches, first, worker = first_batch_and_worker(loader)
    os.kill(worker.pid, signal.SIGINT)
    assert [first] + [batch[0].tolist() for batch in batches] == pull(make(Numbers(40)))
    assert worker.is_alive()


def test_workers_end_when_told_whatever_the_main_process_does_with_such_signals():
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        loader = make(Numbers(40), workers=1)
        batches, _, worker = first_batch_and_worker(loader)
        worker.terminate()
        worker.join(timeout=20)
        assert worker.exitcode == -signal.SIGTERM
        batches.close()
    finally:
        signal.signal(signal.SIGTERM, before)
