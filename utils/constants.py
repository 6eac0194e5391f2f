"""Small tensors that are made once for each device; copying them there in every step would make the host wait."""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor


def constant(values: float | Sequence[float], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return ``values`` as a tensor on ``device``, always the same one, which must not be changed."""
    return _made_once(values if isinstance(values, float | int) else tuple(values), device, dtype)


def forget_constants() -> None:
    """Have all constants made again; for those made under a mode in which tensors have no data."""
    _made_once.cache_clear()


@cache
def _made_once(values: float | tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.tensor(values, dtype=dtype).to(device)
