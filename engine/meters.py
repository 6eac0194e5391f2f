"""Running means of the numbers of steps, kept on the device until they are read."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from utils.distributed import all_reduce_mean_


def mean_over_processes(numbers: dict[str, Tensor]) -> dict[str, Tensor]:
    """Means over all processes, on the device, so that the state that the main process saves is that of all."""
    values = all_reduce_mean_(torch.stack([n.double() for n in numbers.values()]))
    return dict(zip(numbers, values.unbind(), strict=True))


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
        self.sums = self.counts = self.largest = torch.zeros(0, dtype=torch.float64, device=self.device)
        self.steps = torch.zeros(2, dtype=torch.float64, device=self.device)

    def add(self, numbers: dict[str, Tensor], bad: Tensor) -> None:
        """Add the numbers of a step, unless it was bad. Does not synchronise with the host.

        Args:
            numbers: 0-dim tensors by name, on the device; the same names in every step.
            bad: 0-dim float, 1 for a bad step, else 0.
        """
        values = torch.stack([n.double() for n in numbers.values()])
        if not self.names:
            self.names, self.sums, self.counts = list(numbers), torch.zeros_like(values), torch.zeros_like(values)
            self.largest = torch.full_like(values, -torch.inf)
        good = values.isfinite() & ~bad.bool()
        self.sums = torch.where(good, self.sums + values, self.sums)
        self.largest = torch.where(good, self.largest.maximum(values), self.largest)
        self.counts = self.counts + good
        self.steps = self.steps + torch.stack([1 - bad, bad])

    def read(self) -> dict[str, float | None]:
        """The means and maxima; None for a number without a finite value in a good step. Synchronises with the host."""
        means, largest = torch.stack([self.sums / self.counts, self.largest]).tolist()
        numbers = dict(zip(self.names, means, strict=True))
        maxima = {f"{n}_max": v for n, v in zip(self.names, largest, strict=True) if n in self.maxima}
        return {name: value if math.isfinite(value) else None for name, value in {**numbers, **maxima}.items()}

    def read_steps(self) -> tuple[int, int]:
        """(good steps, bad steps). Synchronises with the host."""
        good, bad = (int(n) for n in self.steps.tolist())
        return good, bad

    def state_dict(self) -> dict[str, object]:
        tensors = {"sums": self.sums, "counts": self.counts, "largest": self.largest, "steps": self.steps}
        return {"names": self.names, **tensors}

    def load_state_dict(self, state: dict) -> None:
        self.names = list(state["names"])
        self.sums, self.counts, self.largest, self.steps = (
            state[name].to(self.device) for name in ("sums", "counts", "largest", "steps")
        )
