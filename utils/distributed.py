"""One process among several, as torchrun starts them; a process started by hand is a world of one."""

import os
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

# A process that waits longer than this for another takes it for dead, so that torchrun can start both again.
TIMEOUT = timedelta(minutes=10)


WORLD_VARIABLES = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))


class World(NamedTuple):
    """This process's place: ``rank`` of ``size`` over all machines, ``local_rank`` on its own."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """True for the one process that writes and prints."""
        return self.rank == 0


def read_world() -> World:
    """The world that torchrun's environment variables describe."""
    return World(*(int(os.environ.get(name, default)) for name, default in WORLD_VARIABLES))


def join(world: World, device: torch.device) -> None:
    """Meet the other processes: NCCL between GPUs, gloo between CPUs. A world of one needs no meeting."""
    if world.size > 1:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)


def leave() -> None:
    """Part from the other processes, if there are any."""
    if dist.is_initialized():
        dist.destroy_process_group()


def barrier() -> None:
    """Wait until every process is here."""
    if dist.is_initialized():
        dist.barrier()


def maximum(value: Tensor) -> Tensor:
    """The largest of all processes' values, in place, without synchronising with the host."""
    if dist.is_initialized():
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return value


def mean(value: Tensor) -> Tensor:
    """The mean of all processes' values, in place, without synchronising with the host."""
    if dist.is_initialized():
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value
