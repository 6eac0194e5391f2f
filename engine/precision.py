"""Mixed precision: bf16 where the hardware has it, else fp16 with a loss scaler, through torch.amp."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Precision:
    """How the forward pass computes, and how a loss is scaled."""

    device: torch.device
    dtype: torch.dtype
    scaler: torch.amp.GradScaler

    @classmethod
    def choose(cls, device: torch.device, *, amp: bool) -> "Precision":
        """float32 without ``amp``; with it bf16, or fp16 on GPUs that have no bf16."""
        dtype = torch.float32
        if amp:
            has_bf16 = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
            dtype = torch.bfloat16 if has_bf16 else torch.float16
        return cls(device, dtype, torch.amp.GradScaler(device.type, enabled=dtype == torch.float16))

    def autocast(self) -> AbstractContextManager:
        """The context in which the network runs."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision to float32, wider types as they are: losses are computed in full precision."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
