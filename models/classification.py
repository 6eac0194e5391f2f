"""Classification: a pre-trained encoder with an average pool and one linear layer."""

from pathlib import Path

import torch
from torch import Tensor, nn

from models.encoders import FEATURES, PRETRAINED_CHANNELS, build_encoder
from models.pretrained import load_weights

DROPOUT = 0.2  # as published


class Classifier(nn.Module):
    """Encoder → average pool → dropout → linear; B C *S to logits, B K.

    The loss applies the sigmoid together with the logarithm, which is numerically stable.

    Args:
        encoder: maps B C *S to the list of its stages' features; the last has 512 channels.
        classes: K.
    """

    def __init__(self, encoder: nn.Module, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(DROPOUT)
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, x: Tensor) -> Tensor:
        features = self.encoder(x)[-1]
        return self.head(self.dropout(features.flatten(2).mean(dim=2)))


def build_classifier(
    *, dim: int, classes: int, weights: str | Path | None = None, in_channels: int | None = None
) -> Classifier:
    """Build a classifier on the encoder of any ``.pt`` file of this program or of the authors.

    Args:
        dim: 2 for the ResNet18 encoder, 3 for the 3D one.
        classes: number of outputs, K.
        weights: the weight file, or None for random weights from torch's global generator.
        in_channels: channels of the input; default 3 in 2D and 1 in 3D, as in pre-training.

    Raises:
        UsageError: ``dim`` is neither 2 nor 3, or ``in_channels`` is below 1.
        UserError: the file cannot be read, or belongs to another network.
    """
    channels = PRETRAINED_CHANNELS.get(dim, 1) if in_channels is None else in_channels
    model = Classifier(build_encoder(dim, channels), classes)
    torch.nn.init.zeros_(model.head.bias)
    if weights is not None:
        load_weights(model.encoder, weights)
    return model
