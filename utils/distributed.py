"""Communication between processes; with a single process, all functions return at once."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import rendezvous
from torch.nn.parallel import DataParallel, DistributedDataParallel

from utils.rendezvous import agree_on_name
from utils.world import World


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside DataParallel or DistributedDataParallel."""
    return module.module if isinstance(module, DataParallel | DistributedDataParallel) else module


def replica_devices(module: nn.Module) -> list[torch.device]:
    """The GPUs that DataParallel uses; an empty list without it."""
    return [torch.device("cuda", i) for i in module.device_ids] if isinstance(module, DataParallel) else []


# A process that waits longer than this for another ends with an error, so that torchrun can restart both.
TIMEOUT = timedelta(minutes=10)


_store: dist.Store | None = None


def shared_store() -> dist.Store | None:
    """The store that all processes of this run can read and write; None with a single process."""
    return _store


def init_process_group(world: World, device: torch.device) -> None:
    """Connect to the other processes: NCCL between GPUs, gloo between CPUs. Nothing to do for a single process."""
    if world.size > 1:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        global _store
        store, _, _ = next(rendezvous("env://", world.rank, world.size, timeout=TIMEOUT))
        name = agree_on_name(dist.PrefixStore("meeting", store), world, timeout=TIMEOUT.total_seconds())
        _store = dist.PrefixStore(f"{name}/shared", store)
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", store=dist.PrefixStore(name, store), rank=world.rank,
            world_size=world.size, timeout=TIMEOUT,
        )  # fmt: skip


def destroy_process_group() -> None:
    """Disconnect from the other processes, if there are any."""
    global _store
    _store = None
    if dist.is_initialized():
        dist.destroy_process_group()


def is_peer_failure(error: RuntimeError) -> bool:
    """Whether an error means that another process has ended; NCCL has a class for such errors, gloo has not."""
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)


def barrier() -> None:
    """Wait until every process has called this."""
    if dist.is_initialized():
        dist.barrier()


def all_reduce_max_(value: Tensor) -> Tensor:
    """Replace a tensor by the maximum over all processes, in place and without waiting on the host."""
    if dist.is_initialized():
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return value


def all_reduce_mean_(value: Tensor) -> Tensor:
    """Replace a tensor by the mean over all processes, in place and without waiting on the host."""
    if dist.is_initialized():
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value


def broadcast_(tensors: Iterable[Tensor]) -> None:
    """Copy tensors of the first process to every other process, in place."""
    if dist.is_initialized():
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def gather(value: Any) -> list[Any]:
    """Collect a value of every process, in order of rank; values must be picklable."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
