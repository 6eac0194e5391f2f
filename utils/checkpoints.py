"""Weights as users load them, and the reading of any checkpoint without running what a file brings."""

import argparse
import math
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.atomic import whole_file
from utils.errors import UserError

# The published program wrote weights at every hundredth epoch and at its last, 240.
EVERY_EPOCHS, PUBLISHED_LAST_EPOCH = 100, 240


# No weight and no running statistic comes near this, not even of inputs that are not normalised; uninitialised memory
# reads as 1e30.
LARGEST_VALUE = 1e10


# What torch.load raises for files that were cut short or are something else.
UNREADABLE = (
    RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError, struct.error,
    zipfile.BadZipFile,
)  # fmt: skip


def weights_due(epoch: int, epochs: int) -> bool:
    """Whether weights are written after this epoch."""
    return epoch % EVERY_EPOCHS == 0 or epoch in (PUBLISHED_LAST_EPOCH, epochs)


def weights_name(*, model: str, dataset: str, phase: str, ratio: float, epoch: int) -> str:
    """File name of weights, e.g. ``pcrlv2_luna_pretask_1.0_240.pt``."""
    return f"{model}_{dataset}_{phase}_{ratio}_{epoch}.pt"


def find_absurd(entries: Mapping[str, Tensor]) -> str | None:
    """The first entry with a value that no weights have, and what it has; None where all values are possible."""
    for name, value in entries.items():
        if value.is_floating_point() and value.numel():
            largest = value.detach().abs().max().item()
            if not math.isfinite(largest):
                return f"{name} has values that are not finite"
            if largest > LARGEST_VALUE:
                return f"{name} has values up to {largest:.3g}"
    return None


def on_cpu(value: Any) -> Any:
    """Copies, on the CPU and in the usual memory layout, of all tensors in nested dicts, lists and tuples."""
    if isinstance(value, Tensor):
        return value.detach().cpu().contiguous().clone()
    if isinstance(value, Mapping):
        return {key: on_cpu(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(on_cpu(item) for item in value)
    return value


def save_checkpoint(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint whole or not at all.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    with whole_file(path) as file:
        torch.save(on_cpu(content), file)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of ours or of the authors, onto the CPU.

    Only tensors, numbers, strings and containers are rebuilt, and the ``argparse.Namespace`` that the authors stored;
    anything else in the file is refused, so that no file can run code.

    Raises:
        UserError: no such file, cut short, not a checkpoint, or holding other objects.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"expected a checkpoint file, there is none at {path}")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} holds more than tensors and plain values; not loaded ({_reason(error)})") from None
    except UNREADABLE as error:
        raise UserError(f"{path} is cut short or is no PyTorch checkpoint ({_reason(error)})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a dict of weights, got a {type(content).__name__}")
    return content


def _reason(error: Exception) -> str:
    return str(error).partition("\n")[0]
