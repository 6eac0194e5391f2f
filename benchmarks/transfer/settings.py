"""How large the benchmark is."""

from dataclasses import dataclass
from pathlib import Path

import torch

from engine.precision import Precision

# SGD is the published one, for 294,240 steps from ImageNet's weights. From random weights, in one run at 0.01, its
# first 50 steps made the first convolution 1.7 times as large and a blur, and the next 350 hardly moved it; Adam left
# it its shape. After 400 steps both transferred alike, within the noise of 4 seeds.
OPTIMIZERS = ("adamw", "sgd")


@dataclass(frozen=True)
class Settings:
    """The sizes of everything; the defaults are meant for 2 CPU cores."""

    out: Path
    device: str = "cpu"
    amp: bool = True
    seed: int = 0
    size: int = 64
    """Side of images, of global views and of what is fine-tuned on, pixels."""
    local_size: int = 32
    local_views: int = 2
    images: int = 480
    """Unlabelled, to pre-train on."""
    epochs: int = 6
    batch: int = 16
    optimizer: str = "adamw"
    """Of pre-training: of OPTIMIZERS."""
    lr: float = 0.001
    replicates: int = 1
    """Pre-trainings of each variant."""
    supervised: int = 1500
    """Images with labels that the positive control is pre-trained on."""
    supervised_steps: int = 400
    labels: int = 400
    """Images with labels that 100 % means."""
    valid: int = 100
    test: int = 400
    seeds: int = 5
    steps: int = 160
    """Of fine-tuning for classification, at most; a third of them for segmentation."""
    passes: int = 40
    """Over the labelled images in fine-tuning, at most."""
    percents: tuple[float, ...] = (1, 5, 10, 100)
    """Of the labels."""

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.device)

    @property
    def precision(self) -> Precision:
        return Precision.choose(self.torch_device, amp=self.amp)
