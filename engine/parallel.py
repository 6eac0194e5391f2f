"""One module on several devices: DataParallel within a process, DistributedDataParallel between processes."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from utils.errors import UsageError
from utils.world import World


def check_batch(batch_size: int, *, replicas: int) -> None:
    """Every replica's BatchNorm needs two samples.

    Raises:
        UsageError: ``batch_size`` gives some replica fewer.
    """
    if batch_size < 2 * replicas:
        raise UsageError(
            f"--b: expected at least {2 * replicas}, which is two samples for the BatchNorm of each replica "
            f"({replicas} here), got {batch_size}"
        )


def parallelize(
    module: nn.Module, devices: Sequence[torch.device], world: World, *, uses_all: bool = False
) -> nn.Module:
    """The module on its device, replicated or distributed as the run asks for.

    Args:
        module: any.
        devices: of this process, the one that holds the parameters first.
        world: this process's place.
        uses_all: whether every step gives every parameter a gradient. DDP must be told of heads that a step does not
            draw, and warns where it looks for them in vain.
    """
    module = module.to(devices[0])
    if world.size > 1:
        ids = [devices[0].index] if devices[0].type == "cuda" else None
        return DistributedDataParallel(module, device_ids=ids, find_unused_parameters=not uses_all)
    if len(devices) > 1:
        return DataParallel(module, device_ids=[device.index for device in devices])
    return module
