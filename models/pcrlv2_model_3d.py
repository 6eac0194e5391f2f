"""The 3D network: a U-Net without skip connections, so that the deepest features must encode the whole volume."""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from models.stages import DecoderStage, run_stages
from models.upsampling import conv_after_transposed
from utils.errors import UsageError
from utils.records import Output

# Groups of GroupNorm, as published; a head with one channel uses one group.
GROUPS = 8


def _normalization(norm: str, channels: int) -> nn.Module:
    if norm == "bn":
        return nn.BatchNorm3d(channels)
    if norm == "gn":
        return nn.GroupNorm(min(GROUPS, channels), channels)
    if norm == "in":
        return nn.InstanceNorm3d(channels, affine=True)
    raise UsageError(f"norm must be 'bn', 'gn' or 'in', got {norm!r}")


def _activation(act: str, channels: int) -> nn.Module:
    if act == "relu":
        return nn.ReLU(inplace=True)
    if act == "prelu":
        return nn.PReLU(channels)
    if act == "elu":
        return nn.ELU(inplace=True)
    if act == "sigmoid":
        return nn.Sigmoid()
    raise UsageError(f"act must be 'relu', 'prelu', 'elu' or 'sigmoid', got {act!r}")


class LUConv(nn.Module):
    """A unit: convolution 3×3×3 → normalisation → activation; B C X Y Z to B C' X Y Z."""

    def __init__(self, in_channels: int, out_channels: int, act: str, norm: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, out_channels, kernel_size=3, padding=1)
        self.bn1 = _normalization(norm, out_channels)
        self.activation = _activation(act, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.finish(self.conv1(x))

    def finish(self, convolved: Tensor) -> Tensor:
        """Apply normalisation and activation, the layers after the convolution."""
        return self.activation(self.bn1(convolved))


class DownTransition(nn.Module):
    """An encoder stage: two units, then maximum pooling for the next stage."""

    def __init__(
        self, in_channels: int, mid_channels: int, out_channels: int, *, pool: bool, act: str, norm: str
    ) -> None:
        super().__init__()
        self.ops = nn.Sequential(
            LUConv(in_channels, mid_channels, act, norm), LUConv(mid_channels, out_channels, act, norm)
        )
        self.maxpool: nn.Module = nn.MaxPool3d(2) if pool else nn.Identity()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map B C X Y Z to (pooled features, features before pooling)."""
        features = self.ops(x)
        # A maximum is exact in any type; autocast on CPUs would convert to float32 first.
        with torch.autocast(x.device.type, enabled=False):
            return self.maxpool(features), features


class UpTransition(DecoderStage):
    """A decoder stage: transposed convolution of stride 2, then two units; heads as in :class:`DecoderStage`."""

    def __init__(self, in_channels: int, out_channels: int, *, n_class: int, act: str, norm: str) -> None:
        super().__init__(out_channels, interpolation="trilinear")
        self.up_conv = nn.ConvTranspose3d(in_channels, in_channels, kernel_size=2, stride=2)
        self.ops = nn.Sequential(
            LUConv(in_channels, out_channels, act, norm), LUConv(out_channels, out_channels, act, norm)
        )
        self.deep_supervision_head = LUConv(out_channels, n_class, "sigmoid", norm)

    def decode(self, features: Tensor) -> Tensor:
        first, second = cast(Iterable[LUConv], self.ops)
        return second(first.finish(conv_after_transposed(features, self.up_conv, first.conv1)))


class OutputTransition(nn.Module):
    """The final restoration: convolution 1×1×1 and sigmoid, since CT targets are scaled to 0..1."""

    def __init__(self, in_channels: int, n_class: int) -> None:
        super().__init__()
        self.final_conv = nn.Conv3d(in_channels, n_class, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.final_conv(x))


class Encoder3d(nn.Module):
    """The encoder of :class:`PCRLv23d` alone, for downstream tasks.

    Args:
        act: ``'relu'``, ``'prelu'``, ``'elu'`` or ``'sigmoid'``.
        norm: ``'bn'``, ``'gn'`` (8 groups) or ``'in'``.
        in_channels: channels of the input.

    Raises:
        UsageError: ``act`` or ``norm`` is none of these.
    """

    def __init__(self, act: str = "relu", norm: str = "bn", in_channels: int = 1) -> None:
        super().__init__()
        self.down_tr64 = DownTransition(in_channels, 32, 64, pool=True, act=act, norm=norm)
        self.down_tr128 = DownTransition(64, 64, 128, pool=True, act=act, norm=norm)
        self.down_tr256 = DownTransition(128, 128, 256, pool=True, act=act, norm=norm)
        self.down_tr512 = DownTransition(256, 256, 512, pool=False, act=act, norm=norm)

    def encode(self, x: Tensor) -> list[Tensor]:
        """Return the features of the four stages of B C X Y Z, shallowest first; the last is B 512 X/8 Y/8 Z/8."""
        features = []
        for stage in (self.down_tr64, self.down_tr128, self.down_tr256, self.down_tr512):
            x, before_pooling = stage(x)
            features.append(before_pooling)
        return features

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.encode(x)


class PCRLv23d(Encoder3d):
    """PCRLv2 for volumes; parameters have the names and shapes of the published weights.

    Args:
        n_class: channels of the restorations.
        act, norm, in_channels: as in :class:`Encoder3d`.
    """

    def __init__(self, n_class: int = 1, act: str = "relu", norm: str = "bn", in_channels: int = 1) -> None:
        super().__init__(act, norm, in_channels)
        self.up_tr256 = UpTransition(512, 256, n_class=n_class, act=act, norm=norm)
        self.up_tr128 = UpTransition(256, 128, n_class=n_class, act=act, norm=norm)
        self.up_tr64 = UpTransition(128, 64, n_class=n_class, act=act, norm=norm)
        self.out_tr = OutputTransition(64, n_class)

    @property
    def stages(self) -> list[DecoderStage]:
        """The decoder stages, deepest first."""
        return [self.up_tr256, self.up_tr128, self.up_tr64]

    def forward(self, x: Tensor, restore: bool = True) -> Output:  # type: ignore[override]
        """Compute the embeddings of every decoder stage and, with ``restore``, all restorations.

        Args:
            x: B C X Y Z, each of X Y Z a multiple of 8.
            restore: if False, only embeddings are computed: ``restoration`` is None and ``intermediate`` empty.
        """
        features, output = run_stages(self.stages, self.encode(x)[-1], size=x.shape[2:], restore=restore)
        return output._replace(restoration=self.out_tr(features)) if restore else output
