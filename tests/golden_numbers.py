"""Weights and inputs of the golden runs, rebuilt from names as ``tests/golden`` was made."""

import json
import zlib
from pathlib import Path

import torch
from torch import Tensor, nn

GOLDEN = Path(__file__).parent / "golden"


def read_json(name: str) -> dict:
    return json.loads((GOLDEN / name).read_text())


def normal(name: str, shape: tuple[int, ...]) -> Tensor:
    """The float64 normal tensor that belongs to a name."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float64)


def golden_value(key: str, shape: tuple[int, ...]) -> Tensor:
    """The value of a state dict's entry in the golden runs."""
    kind = key.rsplit(".", 1)[-1]
    if kind == "num_batches_tracked":
        return torch.tensor(0)
    r = normal(key, shape)
    if kind == "running_var":
        return 1 + 0.1 * r.abs()
    if kind in ("running_mean", "bias"):
        return 0.1 * r
    if len(shape) == 1:
        return 1 + 0.1 * r
    return r * (2 / r[0].numel()) ** 0.5


def fill(model: nn.Module) -> nn.Module:
    """Give a model the golden weights, in float64."""
    model.double()
    model.load_state_dict({key: golden_value(key, value.shape) for key, value in model.state_dict().items()})
    return model
