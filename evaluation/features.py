"""Features of a frozen encoder, the input of probes."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from utils.atomic import whole_file


class PooledFeatures(nn.Module):
    """Encoder → average pool, B C *S to B F: the input of the last layer of a fine-tuned classifier.

    Args:
        encoder: maps B C *S to the list of its stages' features, shallowest first.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)[-1].flatten(2).mean(dim=2)


def save_features(path: Path, rows: Mapping[str, np.ndarray]) -> tuple[list[str], np.ndarray]:
    """Write ``names``, N, and ``features``, float32 N F, as ``.npz``, and return both."""
    names, features = list(rows), np.stack(list(rows.values())).astype(np.float32)
    with whole_file(path) as file:
        np.savez(file, names=np.array(names), features=features)
    return names, features
