"""Running means of the numbers of steps, kept on the device until they are read."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from utils.constants import constant
from utils.distributed import all_reduce_mean_


class StepNumbers(NamedTuple):
    """The numbers of a step, ready to be added to meters, on the device."""

    names: list[str]
    """Of the numbers; the last entry of each tensor is 1 in good steps, and counts them."""
    added: Tensor
    """The values; 0 where they are not finite or the step was bad."""
    largest: Tensor
    """The values; −∞ where they are not finite or the step was bad."""
    good: Tensor
    """bool: whether the value is finite and the step was good."""


def step_numbers(numbers: dict[str, Tensor], bad: Tensor) -> StepNumbers:
    """The means over all processes, so that the state that the main process saves is that of all.

    Does not synchronise with the host.

    Args:
        numbers: 0-dim tensors by name, on the device; the same names in every step.
        bad: 0-dim float, 1 for a bad step, else 0.
    """
    values = torch.stack([*(n.float() for n in numbers.values()), constant(1.0, bad.device)])
    values = all_reduce_mean_(values)
    good = (values.abs() < torch.inf) & (bad == 0)
    added, largest = (torch.where(good, values, constant(x, bad.device)) for x in (0.0, -math.inf))
    return StepNumbers(list(numbers), added, largest, good)


class Meter:
    """Means over the good steps since the last reset. Values that are not finite are left out of the mean.

    Sums and counts are float64 on the device.

    Args:
        device: of the numbers.
        maxima: names of the numbers whose largest value is returned as well, as ``NAME_max``.
    """

    def __init__(self, device: torch.device, *, maxima: Sequence[str] = ()) -> None:
        self.device, self.maxima = device, tuple(maxima)
        self.reset()

    def reset(self) -> None:
        self.names: list[str] = []
        self.sums, self.counts = (torch.zeros(1, dtype=torch.float64, device=self.device) for _ in range(2))
        self.largest, self.steps = self.sums - torch.inf, 0

    def add(self, numbers: StepNumbers) -> None:
        """Add the numbers of a step, unless it was bad. Does not synchronise with the host."""
        if not self.names:
            self.names = numbers.names
            self.sums, self.counts = (torch.zeros_like(numbers.added, dtype=torch.float64) for _ in range(2))
            self.largest = self.sums - torch.inf
        self.sums += numbers.added
        self.counts += numbers.good
        torch.maximum(self.largest, numbers.largest, out=self.largest)
        self.steps += 1

    def read(self) -> dict[str, float | None]:
        """The means and maxima; None for a number without a finite value in a good step. Synchronises with the host."""
        means, largest = torch.stack([self.sums / self.counts, self.largest])[:, :-1].tolist()
        numbers = dict(zip(self.names, means, strict=True))
        maxima = {f"{n}_max": v for n, v in zip(self.names, largest, strict=True) if n in self.maxima}
        return {name: value if math.isfinite(value) else None for name, value in {**numbers, **maxima}.items()}

    def read_steps(self) -> tuple[int, int]:
        """(good steps, bad steps). Synchronises with the host."""
        good = int(self.counts[-1].item())
        return good, self.steps - good

    def state_dict(self) -> dict[str, object]:
        sums, counts, largest = (values[:-1] for values in (self.sums, self.counts, self.largest))
        good = self.counts[-1]
        steps = torch.stack([good, self.steps - good])
        return {"names": self.names, "sums": sums, "counts": counts, "largest": largest, "steps": steps}

    def load_state_dict(self, state: dict) -> None:
        self.names, self.steps = list(state["names"]), int(state["steps"].sum())
        self.sums, self.counts, self.largest = (
            torch.cat([state[name], state["steps"][:1]]).to(self.device) for name in ("sums", "counts", "largest")
        )
