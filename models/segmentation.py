"""Segmentation networks: a pre-trained encoder and a decoder, by default with skip connections.

Pre-training has no skip connections, so that the deepest features must encode the whole image. Segmentation adds them,
since the shallow features locate borders best.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.encoders import FEATURES, build_encoder
from models.pcrlv2_model import DECODER_CHANNELS, build_unet
from models.pcrlv2_model_3d import LUConv
from models.pretrained import load_weights
from utils.errors import UsageError

# Channels of the 3D encoder's stages, deepest first.
WIDTHS_3D = (512, 256, 128, 64)


class UpBlock2d(nn.Module):
    """Nearest-neighbour upsampling by 2, then twice convolution → BatchNorm → ReLU; B C H W to B C' 2H 2W."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        units: list[nn.Module] = []
        for channels in (in_channels, out_channels):
            conv = nn.Conv2d(channels, out_channels, kernel_size=3, padding=1, bias=False)
            units += [conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
        self.ops = nn.Sequential(*units)

    def forward(self, x: Tensor) -> Tensor:
        return self.ops(F.interpolate(x, scale_factor=2, mode="nearest"))


class UpBlock3d(nn.Module):
    """Transposed convolution of stride 2, concatenated with the skip connection, then two units; B C *S to B C' *2S.

    Args:
        in_channels, out_channels: C and C'.
        skip_channels: channels of the encoder's features, 0 without a skip connection.
        norm: as in :class:`models.pcrlv2_model_3d.Encoder3d`.
    """

    def __init__(self, in_channels: int, out_channels: int, *, skip_channels: int, norm: str) -> None:
        super().__init__()
        self.up_conv = nn.ConvTranspose3d(in_channels, in_channels, kernel_size=2, stride=2)
        self.ops = nn.Sequential(
            LUConv(in_channels + skip_channels, out_channels, "relu", norm),
            LUConv(out_channels, out_channels, "relu", norm),
        )

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        x = self.up_conv(x)
        return self.ops(x if skip is None else torch.cat([x, skip], dim=1))


class Segmenter(nn.Module):
    """An encoder and a decoder; B C *S to logits B K *S, each of S a multiple of :attr:`multiple`."""

    multiple: int
    encoder: nn.Module


class Unet2d(Segmenter):
    """The U-Net of segmentation-models-pytorch with its ResNet18 encoder."""

    multiple = 32

    def __init__(self, regions: int, in_channels: int) -> None:
        super().__init__()
        unet = build_unet(classes=regions, encoder_weights=None, in_channels=in_channels)
        self.encoder, self.decoder, self.head = unet.encoder, unet.decoder, unet.segmentation_head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.decoder(self.encoder(x)))


class NoSkipNet2d(Segmenter):
    """The ResNet18 encoder and a decoder without skip connections."""

    multiple = 32

    def __init__(self, regions: int, in_channels: int) -> None:
        super().__init__()
        self.encoder = build_encoder(2, in_channels)
        widths = (FEATURES, *DECODER_CHANNELS)
        self.decoder = nn.Sequential(*(UpBlock2d(a, b) for a, b in zip(widths, DECODER_CHANNELS, strict=False)))
        self.head = nn.Conv2d(DECODER_CHANNELS[-1], regions, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.decoder(self.encoder(x)[-1]))


class Unet3d(Segmenter):
    """The 3D encoder and a decoder of the same widths, with or without skip connections."""

    multiple = 8

    def __init__(self, regions: int, in_channels: int, *, norm: str, skips: bool) -> None:
        super().__init__()
        self.encoder = build_encoder(3, in_channels, norm)
        self.decoder = nn.ModuleList(
            UpBlock3d(a, b, skip_channels=b if skips else 0, norm=norm) for a, b in pairwise(WIDTHS_3D)
        )
        self.head = nn.Conv3d(WIDTHS_3D[-1], regions, kernel_size=1)
        self.skips = skips

    def forward(self, x: Tensor) -> Tensor:
        *shallower, features = self.encoder(x)
        skips: Sequence[Tensor | None] = shallower[::-1] if self.skips else [None] * len(self.decoder)
        for stage, skip in zip(self.decoder, skips, strict=True):
            features = stage(features, skip)
        return self.head(features)


def build_segmenter(
    *, dim: int, regions: int, in_channels: int, weights: str | Path | None = None, skips: bool = True,
    norm: str = "bn",
) -> Segmenter:  # fmt: skip
    """Build a segmentation network on the encoder of any ``.pt`` file of this program or of the authors.

    Args:
        dim: 2 or 3.
        regions: number of outputs, K.
        in_channels: channels of the input; the first convolution is adapted to them, see
            :func:`models.encoders.adapt_input`.
        weights: the weight file, or None for random weights from torch's global generator.
        skips: whether the decoder has skip connections from the encoder's shallower features.
        norm: in 3D ``'bn'`` as in pre-training, ``'gn'`` (8 groups) as published for BraTS, or ``'in'``; in 2D
            ``'bn'``. Weights of a network with BatchNorm can be loaded into the others, without the running
            statistics; the reverse is refused.

    Raises:
        UsageError: ``dim`` is neither 2 nor 3, or there is no such ``norm``.
        UserError: the file cannot be read, or belongs to another network.
    """
    model: Segmenter
    if dim == 3:
        model = Unet3d(regions, in_channels, norm=norm, skips=skips)
    elif dim != 2 or norm != "bn":
        raise UsageError(f"expected dim 3, or dim 2 with the norm 'bn', got dim {dim} with {norm!r}")
    else:
        model = Unet2d(regions, in_channels) if skips else NoSkipNet2d(regions, in_channels)
    if weights is not None:
        load_weights(model.encoder, weights)
    return model
