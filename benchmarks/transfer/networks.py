"""What is put on an encoder, and how BatchNorm is made ready, alike for every encoder."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.transfer.phantoms import REGIONS
from data.views2d import normalize
from engine.precision import Precision, at_least_float32
from models.pcrlv2_model import build_unet
from models.pretrained import load_weights
from utils.seeding import seed_of

# A light decoder: the encoder is what is compared.
DECODER_CHANNELS = (64, 32, 32, 16, 16)
FEATURES = 512
TASKS = CLASSIFICATION, SEGMENTATION = "classification", "segmentation"
CALIBRATION_BATCH = 64


class Network(nn.Module):
    """A U-Net with skip connections, or its encoder with an average pool and one output; the same encoder in both."""

    def __init__(self, task: str, precision: Precision) -> None:
        super().__init__()
        self.task, self.precision = task, precision
        unet = build_unet(classes=len(REGIONS), encoder_weights=None, decoder_channels=DECODER_CHANNELS)
        self.encoder = unet.encoder
        if task == SEGMENTATION:
            self.decoder, self.head = unet.decoder, unet.segmentation_head
        else:
            self.head = nn.Linear(FEATURES, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Images of 0..255, B 1 S S, to logits, float32 B 2 S S or B 1."""
        with self.precision.autocast():
            return at_least_float32(self.read(self.encoder(inputs_of(images))))

    def read(self, features: list[Tensor]) -> Tensor:
        """The encoder's features to logits, B 2 S S or B 1."""
        if self.task == SEGMENTATION:
            return self.head(self.decoder(features))
        return self.head(features[-1].mean(dim=(2, 3)))

    def features(self, images: Tensor) -> list[Tensor]:
        """Images of 0..255, B 1 S S, to the features of all of the encoder's stages, float32."""
        with self.precision.autocast():
            return [at_least_float32(x) for x in self.encoder(inputs_of(images))[1:]]


def build_network(task: str, encoder: Path | None, images: Tensor, *seed: int | str, precision: Precision) -> Network:
    """A network on a pre-trained or a random encoder.

    Args:
        task: CLASSIFICATION or SEGMENTATION.
        encoder: the file of a pre-trained one, None for a random one.
        images: unlabelled, uint8 N 1 S S, that BatchNorm's statistics are taken of.
        seed: of the random weights; the same seed gives the same head on every encoder.
        precision: of its forward passes.
    """
    torch.manual_seed(seed_of("transfer", *seed))
    network = Network(task, precision).to(images.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if encoder is not None:
        load_weights(network.encoder, encoder)
    calibrate(network, images)
    return network


@torch.no_grad()
def calibrate(network: Network, images: Tensor) -> None:
    """Set the encoder's BatchNorm's running statistics to those of whole images.

    Pre-training leaves those of its crops, and a random encoder has none, which would decide more than the weights.
    """
    norms = [module for module in network.encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
    network.encoder.train()
    for batch in images.split(CALIBRATION_BATCH):
        if len(batch) == min(CALIBRATION_BATCH, len(images)):
            network.features(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def inputs_of(images: Tensor) -> Tensor:
    """Images of 0..255, N 1 S S, to the encoder's input, N 3 S S."""
    return normalize(images[:, 0]).contiguous(memory_format=torch.channels_last)


def region_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy and soft Dice over the batch, mean over regions; both N 2 S S."""
    probabilities = logits.sigmoid()
    overlap = (probabilities * masks).sum(dim=(0, 2, 3))
    dice = (2 * overlap + 1) / (probabilities.sum(dim=(0, 2, 3)) + masks.sum(dim=(0, 2, 3)) + 1)
    return F.binary_cross_entropy_with_logits(logits, masks) + (1 - dice).mean()
