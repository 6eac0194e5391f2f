"""Work on a few samples at a time, so that what lies between two operations stays in a core's cache.

The 3D views of a batch of 8 take half the time on a CPU for it (9.7 for 20 ms of a core a crop pair). The numbers are
the same but for the rounding of matrix products, which depends on how many are computed together.
"""

from typing import Any

from torch import Tensor

from utils.plain import plain

# About one 3D crop of the published size: 512 KiB of float32, half of a core's usual second-level cache.
CACHED_NUMBERS = 2**17


def chunks(samples: Tensor) -> list[slice]:
    """Which samples of N *S are worked on together: on a GPU all, on a CPU as many as its cache holds."""
    n = len(samples)
    if plain() or samples.device.type != "cpu" or not n:
        return [slice(0, n)]
    together = max(1, CACHED_NUMBERS // samples[0].numel())
    return [slice(start, start + together) for start in range(0, n, together)]


def part(params: Any, which: slice) -> Any:
    """The parameters of some of the samples; parameters are nested tuples of tensors whose first dimension is N."""
    if params is None:
        return None
    if isinstance(params, Tensor):
        return params[which]
    return type(params)(*(part(field, which) for field in params))
