"""Work on a few samples at a time, so that what lies between two operations stays in a core's cache."""

from typing import Any

from torch import Tensor

# About one 3D crop of the published size: 512 KiB of float32, half of a core's usual second-level cache.
CACHED_NUMBERS = 2**17


def chunks(samples: Tensor, caches: int = 1) -> list[slice]:
    """Which samples of N *S are worked on together: on a GPU all, on a CPU as many as its cache holds.

    Args:
        samples: of any dimension.
        caches: more than 1 where an operation is so short that its start counts for more than what the cache gains.
    """
    n = len(samples)
    together = n if samples.device.type != "cpu" or not n else max(1, caches * CACHED_NUMBERS // samples[0].numel())
    return [slice(start, start + together) for start in range(0, n, max(1, together))]


def part(params: Any, which: slice) -> Any:
    """The parameters of some of the samples; parameters are nested tuples of tensors whose first dimension is N."""
    if params is None:
        return None
    if isinstance(params, Tensor):
        return params[which]
    return type(params)(*(part(field, which) for field in params))
