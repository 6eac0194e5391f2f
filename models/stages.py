"""The three heads of a decoder stage of PCRLv2, the same in 2D and in 3D.

A stage's features become a *projection* and a *prediction* (the siamese comparison of semantics, paper section 3.2)
and an *intermediate restoration* (the multi-scale restoration of pixels, section 3.1).
"""

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor, nn

from utils.records import Output


class DecoderStage(nn.Module):
    """A decoder stage with its three heads.

    Subclasses implement :meth:`decode` and set ``deep_supervision_head``. The attribute names are those of the
    published state dict.

    Args:
        channels: channels of the stage's features, F.
        interpolation: mode that resizes the intermediate restoration to input size, ``'bilinear'`` or ``'trilinear'``.
    """

    deep_supervision_head: nn.Module

    def __init__(self, channels: int, interpolation: str) -> None:
        super().__init__()
        self.interpolation = interpolation
        self.bn = nn.BatchNorm1d(channels)
        self.predictor_head = nn.Sequential(
            nn.Linear(channels, 2 * channels),
            nn.BatchNorm1d(2 * channels),
            nn.ReLU(inplace=True),
            nn.Linear(2 * channels, channels),
        )

    def decode(self, features: Tensor) -> Tensor:
        """Compute this stage's features, B F *2S', from those of the previous stage, B C' *S'."""
        raise NotImplementedError(f"{type(self).__name__} must implement decode()")

    def embed(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Compute (projection, prediction), each B F, from features B F *S'."""
        projection = self.bn(features.flatten(2).mean(dim=2))
        return projection, self.predictor_head(projection)

    def restore(self, features: Tensor, size: Iterable[int]) -> Tensor:
        """Compute the intermediate restoration at ``size``, B C *S, from features B F *S'."""
        image = self.deep_supervision_head(features)
        size = tuple(size)
        if image.shape[2:] == size:
            return image
        return F.interpolate(image, size=size, mode=self.interpolation, align_corners=False)


def run_stages(
    stages: Iterable[DecoderStage], features: Tensor, *, size: Iterable[int], restore: bool
) -> tuple[Tensor, Output]:
    """Run the decoder, deepest stage first.

    Returns:
        The last stage's features, B F *S, and an :class:`Output` whose ``restoration`` is still None.
    """
    embeddings, intermediate = [], []
    size = tuple(size)
    for stage in stages:
        features = stage.decode(features)
        embeddings.append(stage.embed(features))
        if restore:
            intermediate.append(stage.restore(features, size))
    return features, Output(None, embeddings, intermediate)
