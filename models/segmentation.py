"""Networks of segmentation: a pre-trained encoder, and a decoder that by default also sees its shallower features.

Pre-training leaves skip connections out, so that the encoder must carry everything; segmentation puts them back, since
borders are found in the shallow features.
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

# Of the 3D encoder's stages, deepest first.
WIDTHS_3D = (512, 256, 128, 64)


class Upward2d(nn.Module):
    """Nearest ×2, then twice convolution → BatchNorm → ReLU; B C H W to B C' 2H 2W."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        units: list[nn.Module] = []
        for channels in (in_channels, out_channels):
            conv = nn.Conv2d(channels, out_channels, kernel_size=3, padding=1, bias=False)
            units += [conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
        self.ops = nn.Sequential(*units)

    def forward(self, x: Tensor) -> Tensor:
        return self.ops(F.interpolate(x, scale_factor=2, mode="nearest"))


class Upward3d(nn.Module):
    """Transposed convolution by 2, the encoder's features of that size beside it, two units; B C X Y Z to B C' *2S.

    Args:
        in_channels, out_channels: C and C'.
        skip_channels: of the encoder's features, 0 for none.
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


class PlainNet2d(Segmenter):
    """The ResNet18 encoder and a decoder that sees its deepest features alone."""

    multiple = 32

    def __init__(self, regions: int, in_channels: int) -> None:
        super().__init__()
        self.encoder = build_encoder(2, in_channels)
        widths = (FEATURES, *DECODER_CHANNELS)
        self.decoder = nn.Sequential(*(Upward2d(a, b) for a, b in zip(widths, DECODER_CHANNELS, strict=False)))
        self.head = nn.Conv2d(DECODER_CHANNELS[-1], regions, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.decoder(self.encoder(x)[-1]))


class Unet3d(Segmenter):
    """The 3D encoder and a decoder of its widths, with or without skip connections."""

    multiple = 8

    def __init__(self, regions: int, in_channels: int, *, norm: str, skips: bool) -> None:
        super().__init__()
        self.encoder = build_encoder(3, in_channels, norm)
        self.decoder = nn.ModuleList(
            Upward3d(a, b, skip_channels=b if skips else 0, norm=norm) for a, b in pairwise(WIDTHS_3D)
        )
        self.head = nn.Conv3d(WIDTHS_3D[-1], regions, kernel_size=1)
        self.skips = skips

    def forward(self, x: Tensor) -> Tensor:
        *shallower, features = self.encoder(x)
        beside: Sequence[Tensor | None] = shallower[::-1] if self.skips else [None] * len(self.decoder)
        for stage, skip in zip(self.decoder, beside, strict=True):
            features = stage(features, skip)
        return self.head(features)


def build_segmenter(
    *, dim: int, regions: int, in_channels: int, weights: str | Path | None = None, skips: bool = True,
    norm: str = "bn",
) -> Segmenter:  # fmt: skip
    """A segmentation network on the encoder of any ``.pt`` of ours or of the authors.

    Args:
        dim: 2 or 3.
        regions: outputs, K.
        in_channels: of the input; the first convolution is repeated over them, see :func:`models.encoders.adapt_input`.
        weights: the file, or None for random weights from torch's global generator.
        skips: whether the decoder sees the encoder's shallower features.
        norm: 3D: ``'bn'`` as pre-trained, ``'gn'`` (8 groups) as published for BraTS, or ``'in'``. Weights of a
            BatchNorm go into either of the others, without its running statistics; not the other way round.

    Raises:
        UsageError: ``dim`` is neither 2 nor 3, ``norm`` none of these, or other than ``'bn'`` in 2D.
        UserError: the file cannot be read, or is of another network.
    """
    model: Segmenter
    if dim == 3:
        model = Unet3d(regions, in_channels, norm=norm, skips=skips)
    elif dim != 2 or norm != "bn":
        raise UsageError(f"expected dim 3, or dim 2 with the norm 'bn', got dim {dim} with {norm!r}")
    else:
        model = Unet2d(regions, in_channels) if skips else PlainNet2d(regions, in_channels)
    if weights is not None:
        load_weights(model.encoder, weights)
    return model
