"""What processes say to each other; a world of one has nobody to talk to."""

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
    """The GPUs that DataParallel uses; none where it is not used."""
    return [torch.device("cuda", i) for i in module.device_ids] if isinstance(module, DataParallel) else []


# A process that waits longer than this for another takes it for dead, so that torchrun can start both again.
TIMEOUT = timedelta(minutes=10)


_store: dist.Store | None = None


def shared_store() -> dist.Store | None:
    """What all processes of this run can write to and read from; None in a world of one."""
    return _store


def init_process_group(world: World, device: torch.device) -> None:
    """Meet the other processes: NCCL between GPUs, gloo between CPUs. A world of one needs no meeting."""
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
    """Part from the other processes, if there are any."""
    global _store
    _store = None
    if dist.is_initialized():
        dist.destroy_process_group()


def is_peer_failure(error: RuntimeError) -> bool:
    """Whether an error says that another process is gone; NCCL has a class for that, gloo none."""
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)


def barrier() -> None:
    """Wait until every process is here."""
    if dist.is_initialized():
        dist.barrier()


def all_reduce_max_(value: Tensor) -> Tensor:
    """The largest of all processes' values, in place, without synchronising with the host."""
    if dist.is_initialized():
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return value


def all_reduce_mean_(value: Tensor) -> Tensor:
    """The mean of all processes' values, in place, without synchronising with the host."""
    if dist.is_initialized():
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value


def broadcast_(tensors: Iterable[Tensor]) -> None:
    """Give every process what the first one has, in place."""
    if dist.is_initialized():
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def gather(value: Any) -> list[Any]:
    """What every process has, by rank: any value that pickles."""
    if not dist.is_initialized():
        return [value]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, value)
    return everyone
