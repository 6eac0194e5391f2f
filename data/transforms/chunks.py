"""Process a few samples at a time, so that intermediate results stay in a CPU core's cache.

This halves the time of the 3D views of a batch of 8 on a CPU: 9.7 instead of 20 ms of a core per crop pair. Results
differ only by the rounding of matrix products, which depends on how many are computed together.
"""

from typing import Any

from torch import Tensor

from utils.plain import plain

# One 3D crop of the published size: 512 KiB of float32, half of a core's usual second-level cache.
CHUNK_NUMBERS = 2**17


def chunks(samples: Tensor) -> list[slice]:
    """Slices of samples of N *S to process together: all on a GPU, as many as the cache holds on a CPU."""
    n = len(samples)
    if plain() or samples.device.type != "cpu" or not n:
        return [slice(0, n)]
    per_chunk = max(1, CHUNK_NUMBERS // samples[0].numel())
    return [slice(start, start + per_chunk) for start in range(0, n, per_chunk)]


def part(params: Any, which: slice) -> Any:
    """Select the parameters of some samples; parameters are nested tuples of tensors whose first dimension is N."""
    if params is None:
        return None
    if isinstance(params, Tensor):
        return params[which]
    return type(params)(*(part(field, which) for field in params))
