"""How the values of images and weights lie in memory."""

import torch


def memory_format(dim: int, device: torch.device) -> torch.memory_format:
    """What convolutions of ``dim`` dimensions are quickest with: channels last, but for 3D ones on CPUs of 8 lanes.

    On a CPU with AVX-512, a 3D training step takes 0.93 of the time channels last in float32, 0.73 in bf16.
    """
    if dim == 2:
        return torch.channels_last
    wide = device.type != "cpu" or torch.backends.cpu.get_cpu_capability() == "AVX512"
    return torch.channels_last_3d if wide else torch.contiguous_format
