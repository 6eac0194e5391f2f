"""Writes and reads checkpoints; reading runs no code from the file."""

import argparse
import math
import pickle
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.atomic import whole_file
from utils.errors import UserError
from utils.safetensors_files import ENDING, read_safetensors

# Key of what prediction needs to know of fine-tuned weights, beside the weights.
RECORD = "record"
# The published program writes weights after every hundredth epoch and after its last, 240.
EVERY_EPOCHS, PUBLISHED_LAST_EPOCH = 100, 240


# Weights of trained networks are below 100 and running means below 1000, even for CT that is not normalised;
# uninitialised memory has values such as 1e30. A running variance is a square.
LARGEST_VALUE = 1e6
LARGEST_VARIANCE = LARGEST_VALUE**2
REMEDY = "try a smaller --lr, --init with weights from before, or no --amp"


# Errors of torch.load for files that are cut short or are no checkpoints.
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


def find_absurd(entries: Mapping[str, Tensor], *, largest: float = LARGEST_VALUE) -> str | None:
    """A description of the first entry with values that are not finite or too large for weights; None if there is none.

    Synchronises with the host.

    Args:
        entries: tensors by name; integer tensors are not checked.
        largest: limit of the absolute values; running variances have a limit of their own.
    """
    values = {name: value.detach() for name, value in entries.items() if value.is_floating_point() and value.numel()}
    # No value exceeds the norm. Norms take a tenth of the time, and nearly always suffice.
    if all(norms.isfinite().all() and norms.max() <= largest for norms in _norms(list(values.values()))):
        return None
    for name, value in values.items():
        found = value.abs().max().item()
        if not math.isfinite(found):
            return f"{name} has values that are not finite"
        if found > max(largest, LARGEST_VARIANCE if name.endswith("running_var") else 0):
            return f"{name} has values up to {found:.3g}"
    return None


def _norms(tensors: list[Tensor]) -> Iterator[Tensor]:
    """The L2 norms of all tensors, one vector for each device."""
    for device in {tensor.device for tensor in tensors}:
        yield torch.stack([n.float() for n in torch._foreach_norm([t for t in tensors if t.device == device])])


def on_cpu(value: Any) -> Any:
    """A copy of nested dicts, lists and tuples with all tensors on the CPU and contiguous."""
    if isinstance(value, Tensor):
        return value.detach().cpu().contiguous().clone()
    if isinstance(value, Mapping):
        return {key: on_cpu(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(on_cpu(item) for item in value)
    return value


def save_checkpoint(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically.

    Raises:
        UserError: the folder cannot be written, or the disk is full; or ``state_dict`` holds values that are not finite
            or absurdly large.
    """
    if absurd := find_absurd(content.get("state_dict", {})):
        raise UserError(f"{path}: not written, since {absurd}: training went wrong; {REMEDY}")
    with whole_file(path) as file:
        torch.save(on_cpu(content), file)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of this program or of the authors, or a safetensors file, onto the CPU.

    Only tensors, numbers, strings, containers and the authors' ``argparse.Namespace`` are loaded; any other
    object is refused, so that no file can run code.

    Raises:
        UserError: the file is missing, cut short, no checkpoint, or holds other objects.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"expected a checkpoint file, there is none at {path}")
    if path.suffix == ENDING:
        return read_safetensors(path)
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
