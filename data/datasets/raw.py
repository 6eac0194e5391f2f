"""What every data set is to a loader."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class RawDataset(Protocol):
    """Samples by index; a broken one raises UserError or OSError. All but :meth:`collate` runs in loader workers."""

    fingerprint: str

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> tuple[Tensor, ...]: ...
    def name(self, index: int) -> str: ...
    def collate(self, samples: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]: ...
