"""Mixed precision: bf16 where the hardware has it, else fp16 with a loss scaler, through torch.amp."""

import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor


def cpu_has_bf16() -> bool:
    """Whether this CPU has bf16 multiplication (AVX-512 BF16, AMX or Arm's)."""
    return any("bf16" in name and has is True for name, has in torch.cpu.get_capabilities().items())


@dataclass(frozen=True)
class Precision:
    """The number format of the forward pass, and the loss scaler."""

    device: torch.device
    dtype: torch.dtype
    scaler: torch.amp.GradScaler

    @classmethod
    def choose(cls, device: torch.device, *, amp: bool, verbose: bool = True) -> "Precision":
        """float32 without ``amp``; with it bf16, else fp16 on a GPU.

        A CPU without bf16 uses float32, since half precision is emulated there and hundreds of times slower.

        Args:
            device: of the network.
            amp: whether mixed precision was requested.
            verbose: whether to print a line when it is not available; True in one process only.
        """
        dtype = torch.float32
        if amp and device.type == "cuda":
            dtype = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        elif amp and cpu_has_bf16():
            dtype = torch.bfloat16
        elif amp and verbose:
            print("--amp: this CPU has no bf16; computing in float32", file=sys.stderr)
        return cls(device, dtype, torch.amp.GradScaler(device.type, enabled=dtype == torch.float16))

    def autocast(self) -> AbstractContextManager:
        """The context in which the network runs."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision to float32, wider types as they are: losses are computed in full precision."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
