"""Outputs of a network for every sample of a split, and the labels beside them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from utils.devices import to_device
from utils.distributed import gather
from utils.errors import UserError


class Predictions(NamedTuple):
    """Outputs for a split, in the order of its samples; broken samples are left out."""

    indices: list[int]
    values: np.ndarray
    """float32, N F."""
    labels: np.ndarray
    """float32, N K: 0 or 1, NaN where unlabelled."""

    @classmethod
    def join(cls, several: Iterable["Predictions"]) -> "Predictions":
        """Several as one, by sample."""
        full = [one for one in several if one.indices]
        if not full:
            return cls([], np.zeros((0, 0), dtype=np.float32), np.zeros((0, 0), dtype=np.float32))
        indices = np.concatenate([one.indices for one in full])
        order = np.argsort(indices)
        values, labels = (np.concatenate([getattr(one, name) for one in full])[order] for name in cls._fields[1:])
        return cls(indices[order].tolist(), values, labels)

    def usable(self) -> bool:
        """Whether there are any, and all are finite."""
        return bool(self.indices) and bool(np.isfinite(self.values).all())


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode, where BatchNorm uses and keeps its running statistics; then as it was before.

    The random state is put back as well, since a loader draws from it when it starts its workers.
    """
    modes = [(child, child.training) for child in module.modules()]
    random_state = torch.get_rng_state()
    module.eval()
    try:
        yield
    finally:
        torch.set_rng_state(random_state)
        for child, training in modes:
            child.training = training


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


def gather_predictions(own: Predictions, *, split: str, name: Callable[[int], str]) -> Predictions:
    """Those of all processes; every process must call it.

    Args:
        own: this process's.
        split: which one they are of, for the error.
        name: of a sample.

    Raises:
        UserError: there are none, or some are not finite: no number can be told from them.
    """
    everything = Predictions.join(gather(own))
    finite = np.isfinite(everything.values).all(axis=1)
    require_finite([name(i) for i in everything.indices], finite.tolist(), split=split)
    return everything


def require_finite(names: Sequence[str], finite: Sequence[bool], *, split: str) -> None:
    """Outputs of a network that are not numbers have no score.

    Args:
        names: N samples.
        finite: N, whether all outputs for the sample are finite.
        split: which one they are of.

    Raises:
        UserError: some are not, or there are none.
    """
    if not finite:
        raise UserError(f"expected outputs for the {split} split, got none: it has no readable sample; check --data")
    broken = [sample for sample, good in zip(names, finite, strict=True) if not good]
    if broken:
        raise UserError(
            f"expected finite outputs for the {split} split, got others for {len(broken)} of {len(finite)} samples, "
            f"the first {broken[0]}; check --weight and --data, or train with a smaller --lr or without --amp"
        )
