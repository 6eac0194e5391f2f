"""Build encoders with random weights, and adapt encoders to other numbers of input channels."""

from collections.abc import Mapping
from typing import Any, overload

from torch import Tensor, nn

from models.pcrlv2_model import build_unet
from models.pcrlv2_model_3d import Encoder3d
from utils.errors import UsageError, UserError

# Weights of the first convolution of the 3D and of the 2D encoder; torchvision and timm use the 2D name.
FIRST_CONVS = ("down_tr64.ops.0.conv1.weight", "conv1.weight")

# Normalisations of the 3D encoder; pre-training uses the first.
NORMS = ("bn", "gn", "in")
# Input channels in pre-training, by dimensions.
PRETRAINED_CHANNELS = {2: 3, 3: 1}
# Channels of the last stage of both encoders.
FEATURES = 512


@overload
def adapt_input(source: nn.Module, in_channels: int) -> nn.Module: ...
@overload
def adapt_input(source: Mapping[str, Tensor], in_channels: int) -> dict[str, Tensor]: ...


def adapt_input(source: nn.Module | Mapping[str, Tensor], in_channels: int) -> nn.Module | dict[str, Tensor]:
    """Adapt an encoder, or its weights, to another number of input channels.

    The first convolution's weights are summed over the channels they have, repeated ``in_channels`` times, and divided
    by ``in_channels``. A grey image repeated over the channels therefore gives the same features as before. Repeating
    without dividing would multiply the response of the first convolution by the number of channels, which does not fit
    the running statistics of the BatchNorm after it. In 3D, where the pre-trained input has one channel, this is the
    published repetition over the channels of BraTS, except for the division. In 2D, where pre-training reads grey
    images as RGB, the weights of the three colours are summed before they are repeated. Nothing changes if the encoder
    already has ``in_channels`` channels.

    Args:
        source: a 2D or 3D encoder (changed in place), or its weights by name (not changed).
        in_channels: channels of the input, 1 or more.

    Returns:
        The same module, or a new dict of weights.

    Raises:
        UsageError: ``in_channels`` is below 1.
        UserError: ``source`` has no first convolution of a 2D or 3D encoder.
    """
    if in_channels < 1:
        raise UsageError(f"in_channels: expected 1 or more, got {in_channels}")
    name = first_conv_name(source.state_dict() if isinstance(source, nn.Module) else source)
    if not isinstance(source, nn.Module):
        return {**source, name: _spread(source[name], in_channels)}
    conv = source.get_submodule(name.removesuffix(".weight"))
    assert isinstance(conv, nn.Conv2d | nn.Conv3d)
    if conv.in_channels != in_channels:
        conv.weight = nn.Parameter(_spread(conv.weight.detach(), in_channels))
        conv.in_channels = in_channels
    return source


def first_conv_name(entries: Mapping[str, Any]) -> str:
    """Return the name of the first convolution's weights.

    Raises:
        UserError: ``entries`` has no first convolution of a 2D or 3D encoder.
    """
    for name in FIRST_CONVS:
        if name in entries:
            return name
    raise UserError(f"expected an encoder with {' or '.join(FIRST_CONVS)}, found neither")


def _spread(weight: Tensor, in_channels: int) -> Tensor:
    """Spread weights O I *K over channels: O in_channels *K, with the same response to a repeated grey input."""
    if weight.shape[1] == in_channels:
        return weight
    summed = weight.sum(dim=1, keepdim=True)
    return (summed / in_channels).repeat_interleave(in_channels, dim=1)


def build_encoder(dim: int, in_channels: int, norm: str = "bn") -> nn.Module:
    """Build an encoder with random weights; it maps B C *S to the list of its stages' features, shallowest first.

    Args:
        dim: 2 for the ResNet18 of segmentation-models-pytorch, whose list begins with the input itself; 3 for
            :class:`Encoder3d`.
        in_channels: channels of the input, C.
        norm: in 3D ``'bn'`` as in pre-training, ``'gn'`` or ``'in'``; in 2D ``'bn'``.

    Raises:
        UsageError: ``dim`` is neither 2 nor 3, ``in_channels`` is below 1, or the encoder has no such ``norm``.
    """
    if in_channels < 1:
        raise UsageError(f"in_channels: expected 1 or more, got {in_channels}")
    if dim == 2 and norm == "bn":
        return build_unet(classes=1, encoder_weights=None, in_channels=in_channels).encoder
    if dim == 3:
        return Encoder3d(in_channels=in_channels, norm=norm)
    if dim == 2:
        raise UsageError(f"norm: expected 'bn' in 2D, got {norm!r}")
    raise UsageError(f"dim: expected 2 or 3, got {dim}")
