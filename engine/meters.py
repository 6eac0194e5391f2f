"""Running means of a step's numbers, kept on the device until they are read."""

import torch
from torch import Tensor

from utils.distributed import all_reduce_mean_


def over_processes(numbers: dict[str, Tensor]) -> dict[str, Tensor]:
    """Means over all processes, so that the state of a run, which one of them writes, holds what all have counted."""
    values = all_reduce_mean_(torch.stack([n.double() for n in numbers.values()]))
    return dict(zip(numbers, values.unbind(), strict=True))


class Meter:
    """Means over the good steps since the last reset."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.reset()

    def reset(self) -> None:
        self.names: list[str] = []
        self.sums = torch.zeros(0, dtype=torch.float64, device=self.device)
        self.count = torch.zeros((), dtype=torch.float64, device=self.device)

    def add(self, numbers: dict[str, Tensor], bad: Tensor) -> None:
        """Count a step's numbers in, unless it was bad. Does not synchronise with the host."""
        values = torch.stack([n.double() for n in numbers.values()])
        if not self.names:
            self.names, self.sums = list(numbers), torch.zeros_like(values)
        self.sums = torch.where(bad.bool(), self.sums, self.sums + values)
        self.count = self.count + (1 - bad)

    def read(self) -> dict[str, float]:
        """The means. Synchronises with the host."""
        means = self.sums / self.count.clamp(min=1)
        return dict(zip(self.names, means.tolist(), strict=True))

    def state_dict(self) -> dict[str, object]:
        return {"names": self.names, "sums": self.sums, "count": self.count}

    def load_state_dict(self, state: dict) -> None:
        self.names = list(state["names"])
        self.sums, self.count = state["sums"].to(self.device), state["count"].to(self.device)
