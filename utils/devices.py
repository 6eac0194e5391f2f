"""Choose the devices of a run and copy records to them."""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from utils.errors import UsageError
from utils.world import World

DEFAULT_GPUS = (0, 1, 2, 3)


def choose_devices(*, device: str | None, gpus: Sequence[int] | None, world: World) -> list[torch.device]:
    """Choose the devices of this process; the first one holds the parameters.

    Args:
        device: ``'cpu'``, ``'cuda'``, ``'cuda:1'`` or None for a GPU if there is one.
        gpus: GPU indices of the option; None for those of 0, 1, 2, 3 that exist.
        world: under torchrun each process takes one of the GPUs, by its local rank.

    Without any GPU, the CPU is used whatever ``gpus`` is, so that the published commands run on any machine.

    Raises:
        UsageError: a GPU or the device does not exist, or several processes of a machine would share a GPU.
    """
    count = torch.cuda.device_count()
    if device is not None and device != "cuda":
        named = _named_device(device, count)
        # Only the first process of each machine may use the named GPU.
        if named.type == "cuda" and world.local_rank > 0:
            raise UsageError(
                f"--device {device}: expected a GPU for each process of a machine, torchrun started process "
                f"{world.local_rank + 1} on this one; leave --device out, or choose several by --gpus"
            )
        return [named]
    if count == 0:
        if device == "cuda":
            raise UsageError("--device cuda: expected a CUDA GPU, this machine has none; use --device cpu")
        if world.is_main:
            print(
                "no GPU here: running on the CPU, which is far slower than the published settings assume",
                file=sys.stderr,
            )
        return [torch.device("cpu")]
    missing = [index for index in gpus or () if not 0 <= index < count]
    if missing:
        raise UsageError(f"--gpus: expected indices from 0 to {count - 1}, the GPUs of this machine; got {missing[0]}")
    chosen = [torch.device("cuda", i) for i in (gpus or [i for i in DEFAULT_GPUS if i < count])]
    if world.size == 1:
        return chosen
    local = [torch.device("cuda", i) for i in (gpus or range(count))]
    if world.local_rank >= len(local):
        raise UsageError(
            f"torchrun started process {world.local_rank + 1} on this machine, which has {len(local)} GPUs to use"
        )
    return [local[world.local_rank]]


def _named_device(name: str, gpu_count: int) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device: expected cpu, cuda or cuda:INDEX, got {name!r}") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device: expected cpu, cuda or cuda:INDEX, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= gpu_count:
        raise UsageError(f"--device {name}: this machine has {gpu_count} GPUs")
    return device


def to_device(record: Any, device: torch.device) -> Any:
    """Copy a record of tensors, or a tensor, to ``device``; the host does not wait for copies from pinned memory."""
    if isinstance(record, Tensor):
        return record.to(device, non_blocking=True)
    moved = [to_device(field, device) for field in record]
    return type(record)(*moved) if hasattr(record, "_fields") else type(record)(moved)
