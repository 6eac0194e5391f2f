"""Work on a few samples at a time, so that what lies between two operations stays in a core's cache."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

# About one 3D crop or two 2D views of the published sizes: 512 KiB of float32, half of a core's usual second-level
# cache.
CACHED_NUMBERS = 2**17


def chunks(samples: Tensor) -> list[slice]:
    """Which samples of N *S are worked on together: on a GPU all, on a CPU as many as its cache holds."""
    n = len(samples)
    together = n if samples.device.type != "cpu" or not n else max(1, CACHED_NUMBERS // samples[0].numel())
    return [slice(start, start + together) for start in range(0, n, max(1, together))]


def part(params: Any, which: slice) -> Any:
    """The parameters of some of the samples; parameters are nested tuples of tensors whose first dimension is N."""
    if params is None:
        return None
    if isinstance(params, Tensor):
        return params[which]
    return type(params)(*(part(field, which) for field in params))


def room_for(shape: Sequence[int], device: torch.device) -> Tensor:
    """A float32 tensor to be filled, for the results of all chunks.

    On a CPU it is NumPy's, which asks the kernel for huge pages: the 77 MB of 64 global views are then handed over in
    some 40 faults instead of 19,000, which can take longer than filling them.
    """
    if device.type == "cpu":
        return torch.from_numpy(np.empty(shape, np.float32))
    return torch.empty(shape, device=device)
