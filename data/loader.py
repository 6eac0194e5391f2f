"""Batches in an order that is a pure function of (seed, epoch), from any step on, with broken samples replaced."""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from data.datasets.raw import RawDataset
from utils.errors import UsageError, UserError
from utils.progress import say
from utils.seeding import seed_of, torch_generator
from utils.workers import read_with_workers, start_worker

# A sample that is broken is replaced by another, that one if broken by yet another, and so on.
TRIES = 20

Key = tuple[int, int]
"""(epoch, index) of a sample."""


@runtime_checkable
class RandomAccessByEpoch(Protocol):
    """A data set whose samples are drawn: another crop of the same case in every epoch, a function of both numbers."""

    def draw(self, epoch: int, index: int) -> tuple[Tensor, ...]: ...


class _Order(Sampler[list[Key]]):
    """The keys of this rank's part of each batch; its position is set before each pass."""

    def __init__(self, n: int, batch_size: int, steps: int, seed: int, rank: int, world_size: int) -> None:
        self.n, self.batch_size, self.steps, self.seed = n, batch_size, steps, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = self.first_step = 0

    def __len__(self) -> int:
        return self.steps - self.first_step

    def __iter__(self) -> Iterator[list[Key]]:
        order = torch.randperm(self.n, generator=torch_generator(self.seed, "order", self.epoch))
        mine = self.batch_size // self.world_size
        for step in range(self.first_step, self.steps):
            start = step * self.batch_size + self.rank * mine
            yield [(self.epoch, i) for i in order[start : start + mine].tolist()]


class _Samples(Dataset):
    """Samples by key, each with the broken ones that were met on the way: (sample, {index: reason}).

    The sample is None when all tries were broken. The main process raises the error: one that a worker raises reaches
    the user with the worker's traceback in its message.
    """

    def __init__(self, dataset: RawDataset, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, key: Key) -> tuple[Any, dict[int, str]]:
        epoch, index = key
        broken: dict[int, str] = {}
        for attempt in range(TRIES):
            try:
                return self._read(epoch, index), broken
            except (UserError, OSError) as error:
                broken[index] = str(error)
            index = seed_of(self.seed, "replacement", epoch, key[1], attempt) % len(self.dataset)
        return None, broken

    def _read(self, epoch: int, index: int) -> tuple[Tensor, ...]:
        return self.dataset.draw(epoch, index) if isinstance(self.dataset, RandomAccessByEpoch) else self.dataset[index]


class _Collate:
    """Samples to (batch, broken samples); the batch is None when a sample is."""

    def __init__(self, dataset: RawDataset) -> None:
        self.dataset = dataset

    def __call__(self, samples: list[tuple[Any, dict[int, str]]]) -> tuple[Any, dict[int, str]]:
        broken = {index: reason for _, found in samples for index, reason in found.items()}
        if any(sample is None for sample, _ in samples):
            return None, broken
        return self.dataset.collate([sample for sample, _ in samples]), broken


class Loader:
    """Batches of raw samples.

    The last incomplete batch of an epoch is dropped, unless it is the only one.

    Args:
        dataset: the samples.
        batch_size: over all processes.
        workers: processes that read; 0 to read in this one. Their number changes nothing but the speed.
        seed: of the order.
        rank, world_size: this process's place; it gets its equal part of each batch.
        pin_memory: whether batches are put where a GPU copies from fastest.
        max_bad: share of samples that may be broken.

    Raises:
        UsageError: the batch does not divide into equal parts, or into parts of one.
        UserError: fewer samples than two a process.
    """

    def __init__(
        self, dataset: RawDataset, *, batch_size: int, workers: int, seed: int, rank: int = 0, world_size: int = 1,
        pin_memory: bool = False, max_bad: float = 0.01,
    ) -> None:  # fmt: skip
        if batch_size % world_size:
            raise UsageError(f"--b: expected a multiple of the {world_size} processes, got {batch_size}")
        if batch_size < 2 * world_size:
            raise UsageError(f"--b: expected two samples at least for each of {world_size} processes, got {batch_size}")
        self.dataset, self.max_bad = dataset, max_bad
        self.batch_size = min(batch_size, len(dataset) - len(dataset) % world_size)
        if self.batch_size < 2 * world_size:
            raise UserError(
                f"--data: expected two samples at least for each of {world_size} processes, got {len(dataset)}; give "
                "more data or a larger --ratio"
            )
        self.steps_per_epoch = len(dataset) // self.batch_size if len(dataset) >= batch_size else 1
        self.bad: dict[str, str] = {}
        self.order = _Order(len(dataset), self.batch_size, self.steps_per_epoch, seed, rank, world_size)
        self.settings: dict[str, Any] = {
            "batch_sampler": self.order, "num_workers": workers, "collate_fn": _Collate(dataset),
            "pin_memory": pin_memory, "persistent_workers": workers > 0, "worker_init_fn": start_worker,
        }  # fmt: skip
        self.samples = _Samples(dataset, seed)
        self.loader = DataLoader(self.samples, **self.settings)

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[Any]:
        """The batches of an epoch from ``first_step`` on: RawImages or RawCrops, on the CPU.

        Raises:
            UserError: more than ``max_bad`` of the samples are broken, workers die again and again, or the machine has
                no room for them.
        """

        def open_loader(read: int, deaths: int) -> DataLoader:
            self.order.epoch, self.order.first_step = epoch, first_step + read
            if deaths:
                self.loader = DataLoader(self.samples, **self.settings)
            return self.loader

        count, workers = self.steps_per_epoch - first_step, self.settings["num_workers"]
        for batch, broken in read_with_workers(open_loader, count, workers=workers):
            self._note(broken)
            if batch is None:
                last = next(reversed(broken.values()))
                raise UserError(f"{TRIES} samples in a row could not be read, the last: {last}")
            yield batch

    def _note(self, broken: dict[int, str]) -> None:
        for index, reason in broken.items():
            name = self.dataset.name(index)
            if name not in self.bad:
                self.bad[name] = reason
                say(f"replaced a broken sample: {reason}")
        if len(self.bad) > self.max_bad * len(self.dataset):
            first = next(iter(self.bad.values()))
            raise UserError(
                f"--max_bad: {len(self.bad)} of {len(self.dataset)} samples are broken, more than the share of "
                f"{self.max_bad} allowed; mend or remove them, or give a larger --max_bad; the first: {first}"
            )
