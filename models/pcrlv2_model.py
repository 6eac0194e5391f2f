"""The 2D network: the ResNet18 U-Net of segmentation-models-pytorch, with a decoder without skip connections."""

from typing import cast

import segmentation_models_pytorch as smp
from segmentation_models_pytorch.base.initialization import initialize_decoder
from torch import Tensor, nn

from models.stages import DecoderStage, run_stages
from models.upsampling import conv_after_nearest
from utils.errors import UserError
from utils.records import Output

DECODER_CHANNELS = (256, 128, 64, 32, 16)


def _unit(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class DecoderBlock(DecoderStage):
    """A decoder stage: nearest-neighbour upsampling by 2, then two units; heads as in :class:`DecoderStage`."""

    def __init__(self, in_channels: int, out_channels: int, n_class: int) -> None:
        super().__init__(out_channels, interpolation="bilinear")
        self.conv1 = _unit(in_channels, out_channels)
        self.conv2 = _unit(out_channels, out_channels)
        self.deep_supervision_head = nn.Sequential(
            nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, n_class, kernel_size=1),
        )

    def decode(self, features: Tensor) -> Tensor:
        convolution, norm, activation = self.conv1
        features = conv_after_nearest(features, cast(nn.Conv2d, convolution))
        return self.conv2(activation(norm(features)))


class Decoder(nn.Module):
    """Five blocks from the deepest features of the encoder to input size; the shallower features are not used."""

    def __init__(self, in_channels: int, n_class: int) -> None:
        super().__init__()
        widths = (in_channels, *DECODER_CHANNELS)
        self.blocks = nn.ModuleList(DecoderBlock(a, b, n_class) for a, b in zip(widths, DECODER_CHANNELS, strict=False))
        initialize_decoder(self)


def build_unet(*, classes: int, encoder_weights: str | None, in_channels: int = 3, **kwargs: object) -> smp.Unet:
    """Build the U-Net of segmentation-models-pytorch with a ResNet18 encoder.

    Args:
        classes: channels of the output.
        encoder_weights: ``'imagenet'`` (downloaded once from a hub) or None for random weights.
        in_channels: channels of the input.
        kwargs: other arguments of ``smp.Unet``.

    Raises:
        UserError: the hub of the ``encoder_weights`` cannot be reached.
    """
    try:
        return smp.Unet("resnet18", in_channels=in_channels, classes=classes, encoder_weights=encoder_weights, **kwargs)
    except Exception as error:
        if encoder_weights is None:
            raise
        # Any exception of the hub's client has the same remedy; its exception classes change between releases.
        raise UserError(
            f"expected to download {encoder_weights} weights of ResNet18 from their hub, got {type(error).__name__}; "
            "connect to the network once (they are then kept), or start from random weights with --encoder_weights none"
        ) from error


class PCRLv2(nn.Module):
    """PCRLv2 for images; parameters have the names and shapes of the published program.

    Args:
        n_class: channels of the restorations.
        encoder_weights: ``'imagenet'`` (downloaded once from a hub) or None for random weights.

    Raises:
        UserError: the hub cannot be reached.
    """

    def __init__(self, n_class: int = 3, encoder_weights: str | None = "imagenet") -> None:
        super().__init__()
        self.model = build_unet(classes=n_class, encoder_weights=encoder_weights)
        self.model.decoder = Decoder(self.model.encoder.out_channels[-1], n_class)

    @property
    def stages(self) -> list[DecoderStage]:
        """The decoder stages, deepest first."""
        return list(self.model.decoder.blocks)

    def forward(self, x: Tensor, restore: bool = True) -> Output:
        """Compute the embeddings of every decoder stage and, with ``restore``, all restorations.

        Args:
            x: B 3 H W, normalised with ImageNet's mean and standard deviation; H and W multiples of 32.
            restore: if False, only embeddings are computed: ``restoration`` is None and ``intermediate`` empty.
        """
        features, output = run_stages(self.stages, self.model.encoder(x)[-1], size=x.shape[2:], restore=restore)
        return output._replace(restoration=self.model.segmentation_head(features)) if restore else output
