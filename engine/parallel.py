"""Puts a module on its devices: DataParallel within a process, DistributedDataParallel between processes."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from utils.errors import UsageError
from utils.world import World


def check_batch(batch_size: int, *, replicas: int) -> None:
    """Check that every replica gets at least two samples, which BatchNorm needs.

    Raises:
        UsageError: ``batch_size`` is too small for the number of replicas.
    """
    if batch_size < 2 * replicas:
        raise UsageError(
            f"--b: expected at least {2 * replicas}, which is two samples for the BatchNorm of each replica "
            f"({replicas} here), got {batch_size}"
        )


def parallelize(
    module: nn.Module, devices: Sequence[torch.device], world: World, *, uses_all: bool = False
) -> nn.Module:
    """The module on its device, replicated over several devices or distributed over several processes.

    Args:
        module: any.
        devices: of this process; the first holds the parameters.
        world: rank of this process and number of processes.
        uses_all: whether every step gives every parameter a gradient. If not, DDP must search for unused parameters;
            if so, it would warn about a needless search.
    """
    module = module.to(devices[0])
    if world.size > 1:
        ids = [devices[0].index] if devices[0].type == "cuda" else None
        return DistributedDataParallel(module, device_ids=ids, find_unused_parameters=not uses_all)
    if len(devices) > 1:
        return DataParallel(module, device_ids=[device.index for device in devices])
    return module
