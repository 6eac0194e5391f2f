"""Devices on which the golden numbers are met: the CPU, and a GPU where there is one."""

import torch

CPU = torch.device("cpu")
GPU = torch.device("cuda", 0) if torch.cuda.is_available() else None
DEVICES = [device for device in (CPU, GPU) if device is not None]
