"""Outputs of a network for every sample of a split, with the labels."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from utils.devices import to_device
from utils.distributed import gather
from utils.errors import UserError
from utils.records import VolumeWindows


class Predictions(NamedTuple):
    """Outputs for a split, in the order of its samples; broken samples are left out."""

    indices: list[int]
    values: np.ndarray
    """float32, N F."""
    labels: np.ndarray
    """float32, N K: 0 or 1, NaN where unlabelled."""

    @classmethod
    def join(cls, several: Iterable["Predictions"]) -> "Predictions":
        """Join several into one, in the order of the samples."""
        full = [one for one in several if one.indices]
        if not full:
            return cls([], np.zeros((0, 0), dtype=np.float32), np.zeros((0, 0), dtype=np.float32))
        indices = np.concatenate([one.indices for one in full])
        order = np.argsort(indices)
        values, labels = (np.concatenate([getattr(one, name) for one in full])[order] for name in cls._fields[1:])
        return cls(indices[order].tolist(), values, labels)

    def usable(self) -> bool:
        """Return whether there are predictions and all of them are finite."""
        return bool(self.indices) and bool(np.isfinite(self.values).all())


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put the module in evaluation mode, where BatchNorm does not update its running statistics, and then restore it.

    The random state is restored as well, since a loader draws from it when it starts its workers.
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


# Windows of a volume that are on the device at once.
WINDOWS_AT_ONCE = 16


def mean_outputs(
    module: nn.Module, windows: Tensor, counts: Tensor, device: torch.device, *, at_once: int = WINDOWS_AT_ONCE
) -> Tensor:
    """Return the mean output over the windows of each file, float64 B F, on the CPU.

    Args:
        module: in evaluation mode; maps inputs, B C *S, to outputs, B F.
        windows: N C *S, on the CPU, those of the first file first.
        counts: B, how many of the N windows each file has.
        device: device of the module.
        at_once: windows that are on it at once.
    """
    outputs = torch.cat([module(some.to(device)).double().cpu() for some in windows.split(at_once)])
    return torch.stack([one.mean(dim=0) for one in outputs.split(counts.tolist())])


@torch.no_grad()
def predict_volumes(
    module: nn.Module, batches: Iterable[tuple[list[int], VolumeWindows]], device: torch.device
) -> Predictions:
    """Compute the mean outputs over the windows of this process's volumes; the module is not changed.

    Args:
        module: maps inputs, B C *S, to outputs, B F.
        batches: (indices of samples, their windows on the CPU).
        device: device of the module.
    """
    found = []
    with evaluating(module):
        for indices, batch in batches:
            means = mean_outputs(module, batch.windows, batch.counts, device)
            found.append(Predictions(indices, means.float().numpy(), batch.labels.numpy()))
    return Predictions.join(found)


@torch.no_grad()
def predict(
    module: nn.Module, batches: Iterable[tuple[list[int], Any]], make_inputs: Callable[[Any], tuple[Tensor, Tensor]],
    device: torch.device,
) -> Predictions:  # fmt: skip
    """Compute the outputs for this process's samples; the module is not changed.

    Args:
        module: maps inputs, B C *S, to outputs, B F.
        batches: (indices of samples, raw batch on the CPU).
        make_inputs: maps a raw batch on the device to (inputs, labels).
        device: device of the module.
    """
    found = []
    with evaluating(module):
        for indices, batch in batches:
            inputs, labels = make_inputs(to_device(batch, device))
            found.append(Predictions(indices, module(inputs).float().cpu().numpy(), labels.cpu().numpy()))
    return Predictions.join(found)


def gather_predictions(own: Predictions, *, split: str, name: Callable[[int], str]) -> Predictions:
    """Gather the predictions of all processes; every process must call it.

    Args:
        own: predictions of this process.
        split: name of the split, for the error message.
        name: returns the name of a sample.

    Raises:
        UserError: there are none, or some are not finite, so that no metric can be computed.
    """
    everything = Predictions.join(gather(own))
    finite = np.isfinite(everything.values).all(axis=1)
    require_finite([name(i) for i in everything.indices], finite.tolist(), split=split)
    return everything


def require_finite(names: Sequence[str], finite: Sequence[bool], *, split: str) -> None:
    """Require finite outputs of a network for every sample, since others have no score.

    Args:
        names: N names of samples.
        finite: N, whether all outputs for the sample are finite.
        split: name of the split, for the error message.

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
