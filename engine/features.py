"""Features of a frozen encoder, and the labels beside them: what probes look at."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from engine.prefetch import to_device
from models.pretrained import Match
from utils.distributed import gather
from utils.errors import UserError


class PooledFeatures(nn.Module):
    """Encoder → average pool, B C *S to B F: what a classifier's last layer sees when it is fine-tuned.

    Args:
        encoder: maps B C *S to the list of its stages' features, shallowest first.
    """

    match: Match | None = None
    """How many of the encoder's entries the weights had; None where they are random."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)[-1].flatten(2).mean(dim=2)


class Features(NamedTuple):
    """What an encoder makes of a part, in the order of its samples; broken samples are left out."""

    indices: list[int]
    values: np.ndarray
    """float32, N F."""
    labels: np.ndarray
    """float32, N K: 0 or 1, NaN where nobody knows."""

    @classmethod
    def join(cls, parts: Iterable["Features"]) -> "Features":
        """Several as one, by sample."""
        full = [part for part in parts if part.indices]
        if not full:
            return cls([], np.zeros((0, 0), dtype=np.float32), np.zeros((0, 0), dtype=np.float32))
        indices = np.concatenate([part.indices for part in full])
        order = np.argsort(indices)
        values, labels = (np.concatenate([getattr(part, name) for part in full])[order] for name in cls._fields[1:])
        return cls(indices[order].tolist(), values, labels)

    def usable(self) -> bool:
        """Whether there are any, and all are finite."""
        return bool(self.indices) and bool(np.isfinite(self.values).all())


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode, where BatchNorm uses and keeps its running statistics; then as it was before.

    The random state is put back as well, since a loader draws from it when it starts its workers.
    """
    modes = [(part, part.training) for part in module.modules()]
    random_state = torch.get_rng_state()
    module.eval()
    try:
        yield
    finally:
        torch.set_rng_state(random_state)
        for part, training in modes:
            part.training = training


@torch.no_grad()
def extract(
    module: nn.Module, batches: Iterable[tuple[list[int], Any]], make_inputs: Callable[[Any], tuple[Tensor, Tensor]],
    device: torch.device,
) -> Features:  # fmt: skip
    """Features of this process's samples; the module is left as it was.

    Args:
        module: maps inputs, B C *S, to features, B F.
        batches: (indices of samples, raw batch on the CPU).
        make_inputs: raw batch on the device to (inputs, labels).
        device: where the module is.
    """
    found = []
    with evaluating(module):
        for indices, batch in batches:
            inputs, labels = make_inputs(to_device(batch, device))
            found.append(Features(indices, module(inputs).float().cpu().numpy(), labels.cpu().numpy()))
    return Features.join(found)


def gather_features(own: Features, *, part: str) -> Features:
    """Those of all processes; every process must call it.

    Args:
        own: this process's.
        part: which part they are of, for the error.

    Raises:
        UserError: there are none, or some are not finite.
    """
    everything = Features.join(gather(own))
    if not everything.usable():
        what = "values that are not finite" if everything.indices else "no readable sample"
        raise UserError(f"expected features of the {part} part, got {what}; check --weight and --data")
    return everything
