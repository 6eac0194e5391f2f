"""Batches of raw samples in an order that depends on (seed, epoch) only; broken samples are replaced."""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from data.broken import require_few_broken
from data.datasets.raw import RawDataset
from utils.errors import UsageError, UserError
from utils.progress import say
from utils.seeding import seed_of, torch_generator
from utils.workers import read_with_workers, start_worker

# Number of samples that are tried: a broken sample is replaced by another one, which may be broken too.
TRIES = 20

Key = tuple[int, int]
"""(epoch, index) of a sample."""


@runtime_checkable
class RandomAccessByEpoch(Protocol):
    """A data set that draws its samples: another crop of a case in every epoch, a function of (epoch, index)."""

    def draw(self, epoch: int, index: int) -> tuple[Tensor, ...]: ...


class _Order(Sampler[list[Key]]):
    """The keys of this rank's share of each batch; epoch and first step are set before each pass."""

    def __init__(self, n: int, batch_size: int, steps: int, seed: int, rank: int, world_size: int) -> None:
        self.n, self.batch_size, self.steps, self.seed = n, batch_size, steps, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = self.first_step = 0

    def __len__(self) -> int:
        return self.steps - self.first_step

    def __iter__(self) -> Iterator[list[Key]]:
        order = torch.randperm(self.n, generator=torch_generator(self.seed, "order", self.epoch))
        own_share = self.batch_size // self.world_size
        for step in range(self.first_step, self.steps):
            start = step * self.batch_size + self.rank * own_share
            yield [(self.epoch, i) for i in order[start : start + own_share].tolist()]


class _Samples(Dataset):
    """(sample, {index of a broken sample: reason}) by key; a broken sample is replaced by another one.

    The sample is None when all tries were broken. The main process then raises the error, since the message of an error
    that a worker raises would contain the worker's traceback.
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
    """Collates samples to (batch, broken samples); the batch is None if any sample is None."""

    def __init__(self, dataset: RawDataset) -> None:
        self.dataset = dataset

    def __call__(self, samples: list[tuple[Any, dict[int, str]]]) -> tuple[Any, dict[int, str]]:
        broken = {index: reason for _, found in samples for index, reason in found.items()}
        if any(sample is None for sample, _ in samples):
            return None, broken
        return self.dataset.collate([sample for sample, _ in samples]), broken


class Loader:
    """Batches of raw samples, on the CPU.

    The last incomplete batch of an epoch is dropped, unless it is the only one.

    Args:
        dataset: the samples.
        batch_size: samples over all processes.
        workers: number of processes that read; 0: read in this process. The batches do not depend on it.
        seed: of the order.
        rank, world_size: of this process; each process gets an equal share of each batch.
        pin_memory: whether batches are in pinned memory, from which copies to a GPU are fastest.
        max_bad: fraction of the samples that may be broken.

    Raises:
        UsageError: the batch cannot be divided into equal shares of at least two samples.
        UserError: the data set has fewer than two samples for each process.
    """

    def __init__(
        self, dataset: RawDataset, *, batch_size: int, workers: int, seed: int, rank: int = 0, world_size: int = 1,
        pin_memory: bool = False, max_bad: float = 0.01,
    ) -> None:  # fmt: skip
        if batch_size % world_size:
            raise UsageError(f"--b: expected a multiple of the {world_size} processes, got {batch_size}")
        if batch_size < 2 * world_size:
            raise UsageError(f"--b: expected at least two samples for each of {world_size} processes, got {batch_size}")
        self.dataset, self.max_bad = dataset, max_bad
        self.batch_size = min(batch_size, len(dataset) - len(dataset) % world_size)
        if self.batch_size < 2 * world_size:
            raise UserError(
                f"--data: expected at least two samples for each of {world_size} processes, got {len(dataset)}; use "
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
        """The batches of an epoch, starting at ``first_step``: RawImages or RawCrops, on the CPU.

        Raises:
            UserError: more than ``max_bad`` of the samples are broken, workers die repeatedly, or shared memory or
                other resources of the machine are exhausted.
        """

        def open_loader(read: int, deaths: int) -> DataLoader:
            self.order.epoch, self.order.first_step = epoch, first_step + read
            if deaths:
                self.loader = DataLoader(self.samples, **self.settings)
            return self.loader

        count, workers = self.steps_per_epoch - first_step, self.settings["num_workers"]
        for batch, broken in read_with_workers(open_loader, count, workers=workers):
            self._report(broken)
            if batch is None:
                last = next(reversed(broken.values()))
                raise UserError(f"{TRIES} samples in a row could not be read, the last: {last}")
            yield batch

    def _report(self, broken: dict[int, str]) -> None:
        for index, reason in broken.items():
            name = self.dataset.name(index)
            if name not in self.bad:
                self.bad[name] = reason
                say(f"replaced a broken sample: {reason}")
        require_few_broken(self.bad, total=len(self.dataset), max_bad=self.max_bad)
