"""What a network makes of every sample of a part, and the labels beside it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from utils.devices import to_device
from utils.distributed import gather


class Predictions(NamedTuple):
    """What a network makes of a part, in the order of its samples; broken samples are left out."""

    indices: list[int]
    values: np.ndarray
    """float32, N F."""
    labels: np.ndarray
    """float32, N K: 0 or 1, NaN where nobody knows."""

    @classmethod
    def join(cls, parts: Iterable["Predictions"]) -> "Predictions":
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
def predict(
    module: nn.Module, batches: Iterable[tuple[list[int], Any]], make_inputs: Callable[[Any], tuple[Tensor, Tensor]],
    device: torch.device,
) -> Predictions:  # fmt: skip
    """Outputs of this process's samples; the module is left as it was.

    Args:
        module: maps inputs, B C *S, to outputs, B F.
        batches: (indices of samples, raw batch on the CPU).
        make_inputs: raw batch on the device to (inputs, labels).
        device: where the module is.
    """
    found = []
    with evaluating(module):
        for indices, batch in batches:
            inputs, labels = make_inputs(to_device(batch, device))
            found.append(Predictions(indices, module(inputs).float().cpu().numpy(), labels.cpu().numpy()))
    return Predictions.join(found)


def gather_predictions(own: Predictions) -> Predictions:
    """Those of all processes; every process must call it.

    Args:
        own: this process's.
    """
    return Predictions.join(gather(own))
