"""What is put on an encoder, and how BatchNorm is made ready, alike for every encoder."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.transfer.phantoms import REGIONS
from data.views2d import normalize
from models.pcrlv2_model import build_unet
from models.pretrained import load_matching, read_weights
from utils.seeding import seed_of

# A light decoder: the encoder is what is compared.
DECODER_CHANNELS = (64, 32, 32, 16, 16)
FEATURES = 512
TASKS = CLASSIFICATION, SEGMENTATION = "classification", "segmentation"
CALIBRATION_BATCH = 64


class Network(nn.Module):
    """A U-Net with skip connections, or its encoder with an average pool and one output; the same encoder in both."""

    def __init__(self, task: str) -> None:
        super().__init__()
        self.task = task
        unet = build_unet(classes=len(REGIONS), encoder_weights=None, decoder_channels=DECODER_CHANNELS)
        self.encoder = unet.encoder
        if task == SEGMENTATION:
            self.decoder, self.head = unet.decoder, unet.segmentation_head
        else:
            self.head = nn.Linear(FEATURES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Inputs, B 3 S S, to logits, B 2 S S or B 1."""
        return self.read(self.encoder(x))

    def read(self, features: list[Tensor]) -> Tensor:
        """The encoder's features to logits, B 2 S S or B 1."""
        if self.task == SEGMENTATION:
            return self.head(self.decoder(features))
        return self.head(features[-1].mean(dim=(2, 3)))


def build_network(task: str, encoder: Path | None, images: Tensor, *seed: int | str) -> Network:
    """A network on a pre-trained or a random encoder.

    Args:
        task: CLASSIFICATION or SEGMENTATION.
        encoder: the file of a pre-trained one, None for a random one.
        images: unlabelled, uint8 N 1 S S, that BatchNorm's statistics are taken of.
        seed: of the random weights; the same seed gives the same head on every encoder.
    """
    torch.manual_seed(seed_of("transfer", *seed))
    network = Network(task).to(images.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if encoder is not None:
        load_matching(network.encoder, read_weights(encoder), source=encoder)
    calibrate(network.encoder, images)
    return network


@torch.no_grad()
def calibrate(encoder: nn.Module, images: Tensor) -> None:
    """Set BatchNorm's running statistics to those of whole images.

    Pre-training leaves those of its crops, and a random encoder has none, which would decide more than the weights.
    """
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
    encoder.train()
    for batch in images.split(CALIBRATION_BATCH):
        if len(batch) == min(CALIBRATION_BATCH, len(images)):
            encoder(inputs_of(batch))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def inputs_of(images: Tensor) -> Tensor:
    """uint8 N 1 S S to the network's input, N 3 S S."""
    return normalize(images[:, 0]).contiguous(memory_format=torch.channels_last)


def region_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy and soft Dice over the batch, mean over regions; both N 2 S S."""
    probabilities = logits.sigmoid()
    overlap = (probabilities * masks).sum(dim=(0, 2, 3))
    dice = (2 * overlap + 1) / (probabilities.sum(dim=(0, 2, 3)) + masks.sum(dim=(0, 2, 3)) + 1)
    return F.binary_cross_entropy_with_logits(logits, masks) + (1 - dice).mean()
