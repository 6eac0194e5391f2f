"""Read weight files of this program, of the authors and of other programs; entries get the encoder's own names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.checkpoints import find_absurd, read_checkpoint
from utils.errors import UserError

# Keys under which training programs store the weights; they may be nested.
CONTAINERS = ("state_dict", "model_state_dict", "model")
# Prefixes that DataParallel, torch.compile and networks around an encoder add to its names, in any order.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.", "encoder.")


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint by name, without the prefixes of wrappers around the encoder.

    Raises:
        UserError: the file cannot be read, contains other objects or no tensors, two entries have the same name, or a
            value is not finite or absurdly large.
    """
    entries = _entries(read_checkpoint(path), path)
    weights: dict[str, Tensor] = {}
    full_names: dict[str, str] = {}
    for full_name, value in entries.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta:
            continue
        name = bare_name(str(full_name))
        if name in weights:
            raise UserError(
                f"{path}: expected the weights of one network, got both {full_names[name]} and {full_name}; keep one"
            )
        weights[name], full_names[name] = value, str(full_name)
    if not weights:
        raise UserError(f"{path}: expected weights, found no tensor")
    if absurd := find_absurd({full_names[name]: value for name, value in weights.items()}):
        raise UserError(f"{path}: expected weights, but {absurd}; take a checkpoint from before training went wrong")
    return weights


def _entries(content: Mapping[Any, Any], path: str | Path) -> Mapping[Any, Any]:
    """Return the dict of weights inside a checkpoint, or the checkpoint itself."""
    while container := next((name for name in CONTAINERS if name in content), None):
        inner = content[container]
        if not isinstance(inner, Mapping):
            raise UserError(f"{path}: expected a dict of weights under {container!r}, got a {type(inner).__name__}")
        content = inner
    return content


def bare_name(name: str) -> str:
    """Return the name of an entry without the prefixes of wrappers around the encoder."""
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), None):
        name = name.removeprefix(prefix)
    return name
