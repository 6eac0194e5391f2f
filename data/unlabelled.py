"""Files without labels, each as the inputs of a network."""

from collections.abc import Sequence

import torch
from torch import Tensor

from data.catalog.any_files import FoundFiles
from data.preprocess import Preprocessing, preprocess
from utils.fingerprint import fingerprint_of


class PreparedFiles:
    """Inputs of each file, as :func:`data.preprocess.preprocess` makes them: (windows float32 N C *window,).

    Args:
        files: the files.
        spec: how they are read.
    """

    def __init__(self, files: FoundFiles, spec: Preprocessing) -> None:
        self.files, self.spec = files, spec
        self.fingerprint = fingerprint_of(repr((files.names, spec)))

    def __len__(self) -> int:
        return len(self.files.names)

    def name(self, index: int) -> str:
        return self.files.names[index]

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return (preprocess(self.files.sources[index], self.spec),)

    def collate(self, samples: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Return all windows, and how many each file has, int64 B."""
        return collate_windows(samples)


def collate_windows(samples: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, Tensor]:
    """Return the windows of samples, N C *S, one sample after the other, and how many each has, int64 B."""
    return torch.cat([windows for (windows,) in samples]), torch.tensor([len(windows) for (windows,) in samples])
