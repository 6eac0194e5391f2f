"""The optimizers of pre-training. All are fused: a step that the guard rejects reaches them as ``found_inf``."""

from collections.abc import Iterable

import torch
from torch import nn


def build_optimizer(
    name: str, parameters: Iterable[nn.Parameter], *, lr: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """``'sgd'``, as published, or ``'adamw'``, which has no use for ``momentum``."""
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=True)
    return torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=True)
