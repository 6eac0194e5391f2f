"""The interface between data sets and loaders."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class RawDataset(Protocol):
    """Samples by index; a broken sample raises UserError or OSError. Workers call all but ``collate``."""

    fingerprint: str

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> tuple[Tensor, ...]: ...
    def name(self, index: int) -> str: ...
    def collate(self, samples: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]: ...
