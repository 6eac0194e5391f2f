"""Batches for evaluation: every sample once, in order."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.broken import require_few_broken
from data.datasets.raw import RawDataset
from utils.errors import UserError
from utils.progress import progress
from utils.workers import read_with_workers, start_worker


class _Readable(Dataset):
    """(index, sample, reason) for each of the given indices; the sample is None where it is broken, for this reason."""

    def __init__(self, dataset: RawDataset, indices: Sequence[int]) -> None:
        self.dataset, self.indices = dataset, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[int, tuple[Tensor, ...] | None, str]:
        index = self.indices[position]
        try:
            return index, self.dataset[index], ""
        except (UserError, OSError) as error:
            return index, None, str(error)


class EvaluationLoader:
    """Batches of all samples once, in order, on the CPU; broken samples are skipped and listed with reasons in ``bad``.

    Args:
        dataset: the samples.
        batch_size: samples in a batch of this process.
        workers: number of processes that read; 0: read in this process.
        rank, world_size: of this process, which reads every ``world_size``-th sample, starting at ``rank``.
        only: indices of the samples to read; None for all.
        max_bad: fraction of the samples that may be broken.
        purpose, unit: the name of the progress bar, and of what it counts.
    """

    def __init__(
        self, dataset: RawDataset, *, batch_size: int, workers: int, rank: int = 0, world_size: int = 1,
        max_bad: float = 0.01, only: Sequence[int] | None = None, purpose: str = "evaluation",
        unit: str = "sample",
    ) -> None:  # fmt: skip
        self.dataset, self.max_bad, self.purpose, self.unit = dataset, max_bad, purpose, unit
        self.bad: dict[str, str] = {}
        self.batch_size, self.workers, self.is_main = batch_size, workers, rank == 0
        self.indices = (range(len(dataset)) if only is None else only)[rank::world_size]

    def __iter__(self) -> Iterator[tuple[list[int], Any]]:
        """Yield (indices, batch).

        Raises:
            UserError: more than ``max_bad`` of the samples are broken, workers die repeatedly, or shared memory or
                other resources of the machine are exhausted.
        """
        count = math.ceil(len(self.indices) / self.batch_size)
        batches = read_with_workers(self._open_loader, count, workers=self.workers)
        for items in progress(
            batches, name=self.purpose, unit=self.unit, total=len(self.indices), units_each=self.batch_size,
            keep_bar=False, active=self.is_main,
        ):  # fmt: skip
            self.bad.update({self.dataset.name(index): reason for index, sample, reason in items if sample is None})
            require_few_broken(
                self.bad, total=len(self.dataset), max_bad=self.max_bad, what="samples to evaluate"
            )  # fmt: skip
            good = [(index, sample) for index, sample, _ in items if sample is not None]
            if good:
                yield [index for index, _ in good], self.dataset.collate([sample for _, sample in good])

    def _open_loader(self, read: int, deaths: int) -> DataLoader:
        return DataLoader(
            _Readable(self.dataset, self.indices[read * self.batch_size :]), batch_size=self.batch_size,
            num_workers=self.workers, collate_fn=list, worker_init_fn=start_worker,
        )  # fmt: skip
