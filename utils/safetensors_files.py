"""Weights as safetensors: tensors by name, and what else a checkpoint holds as JSON in the metadata."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from utils.atomic import whole_file
from utils.errors import UserError
from utils.optional import import_optional

ENDING = ".safetensors"
# Entry of the metadata by which other programs know who reads the tensors' names.
FORMAT = {"format": "pt"}


def write_safetensors(path: str | Path, entries: Mapping[str, Tensor], facts: Mapping[str, Mapping[str, Any]]) -> None:
    """Write tensors and facts.

    Args:
        path: the file to write.
        entries: the tensors by name.
        facts: dicts of plain values by name, each of which becomes JSON.

    Raises:
        UserError: safetensors is not installed, or the file cannot be written.
    """
    safetensors = import_optional("safetensors.torch", "--to safetensors")
    metadata = {name: json.dumps(value) for name, value in facts.items()} | FORMAT
    plain = {name: value.detach().cpu().contiguous() for name, value in entries.items()}
    with whole_file(path) as file:
        file.write(safetensors.save(plain, metadata=metadata))


def read_safetensors(path: Path) -> dict[str, Any]:
    """Read tensors and facts, in the layout of a checkpoint: the tensors are under ``state_dict``.

    Files of other programs have no facts: what is no dict in JSON is left out.

    Raises:
        UserError: safetensors is not installed, or the file is cut short or has another format.
    """
    safetensors = import_optional("safetensors", f"reading {path}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata, entries = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is cut short or is no safetensors file ({error})") from None
    return _facts(metadata) | {"state_dict": entries}


def _facts(metadata: Mapping[str, str]) -> dict[str, Any]:
    facts = {}
    for name, text in metadata.items():
        with contextlib.suppress(ValueError, RecursionError):
            facts[name] = json.loads(text)
    return {name: value for name, value in facts.items() if isinstance(value, dict)}
