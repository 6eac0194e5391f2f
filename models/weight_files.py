"""Files of weights, ours, the authors' and other programs', as entries by the names that an encoder gives them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.checkpoints import find_absurd, read_checkpoint
from utils.errors import UserError

# Where training programs put the weights in their checkpoints; one may lie in another.
CONTAINERS = ("state_dict", "model_state_dict", "model")
# What DataParallel, torch.compile and networks around an encoder put before its names, in any order.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.", "encoder.")


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, prefixes of what was around the encoder taken off.

    Raises:
        UserError: the file cannot be read, holds other objects or no tensors, two entries come to the same name, or a
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
    """The dict of weights inside a checkpoint, which may be the checkpoint itself."""
    while container := next((name for name in CONTAINERS if name in content), None):
        inner = content[container]
        if not isinstance(inner, Mapping):
            raise UserError(f"{path}: expected a dict of weights under {container!r}, got a {type(inner).__name__}")
        content = inner
    return content


def bare_name(name: str) -> str:
    """The name of an entry without the prefixes of what was around the encoder."""
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), None):
        name = name.removeprefix(prefix)
    return name
