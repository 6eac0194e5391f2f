"""Fine-tuning of a whole network on a few labels: the same recipe for every encoder, but for one rate each chooses."""

from collections.abc import Iterator
from copy import deepcopy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.transfer.networks import CLASSIFICATION, SEGMENTATION, Network, region_loss
from benchmarks.transfer.phantoms import Phantoms
from benchmarks.transfer.scores import best_thresholds, overall, score
from benchmarks.transfer.settings import Settings
from utils.schedules import learning_rate
from utils.seeding import torch_generator

BATCHES = {CLASSIFICATION: 16, SEGMENTATION: 8}
# Peak rates of Adam for what is put on the encoder.
LEARNING_RATES = {CLASSIFICATION: 5e-4, SEGMENTATION: 1e-3}
# The encoder's rate is so many times that: small where there is something to keep, 1 where there is nothing.
FACTORS = (1.0, 0.1)
# Segmentation has an answer for every pixel and needs so many times fewer steps.
FEWER = {CLASSIFICATION: 1, SEGMENTATION: 3}
# So often within a fine-tuning the validation part is looked at, and the best weights are kept.
LOOKS = 3
SHIFT = 16  # a shift is up to a sixteenth of the side
PREDICTION_BATCH = 128


class Verdict(NamedTuple):
    """What the validation part says of a network."""

    number: float
    """Mean of the task's metrics, the higher the better."""
    thresholds: Tensor | None
    """Of segmentation, per region, the level of probability of highest Dice."""


def steps_of(task: str, count: int, settings: Settings) -> int:
    """Of fine-tuning on ``count`` labelled images."""
    passes = -(-settings.passes * count // min(BATCHES[task], count))
    return max(1, min(settings.steps // FEWER[task], passes))


def batches(count: int, size: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of each step: all images in a random order, then in another, and so on; all of them when they are few."""
    size, order = min(size, count), torch.zeros(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < size:
            order = torch.cat([order, torch.randperm(count, generator=generator)])
        yield order[:size]
        order = order[size:]


def augment(batch: Phantoms, generator: torch.Generator) -> Phantoms:
    """Each image flipped or not, left to right, and shifted by a few pixels along both axes, with its masks."""
    images, masks = batch.images.float(), batch.masks
    n, side = len(images), images.shape[-1]
    flip = torch.rand(n, generator=generator) < 0.5
    most = side // SHIFT
    shift = torch.randint(-most, most + 1, (n, 2), generator=generator)
    place = torch.arange(side)
    rows = (place + shift[:, :1]).clamp(0, side - 1)
    columns = (place + shift[:, 1:]).clamp(0, side - 1)
    columns = torch.where(flip[:, None], side - 1 - columns, columns)
    rows, columns = rows.to(images.device), columns.to(images.device)

    def move(x: Tensor) -> Tensor:
        which = torch.arange(n, device=x.device)[:, None, None]
        return x.movedim(1, -1)[which, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)

    return Phantoms(move(images), batch.nodule, move(masks))


def fit(network: Network, train: Phantoms, valid: Phantoms, *, steps: int, factor: float, seed: int) -> Verdict:
    """Fine-tune, Adam with a cosine; the same batches for every encoder.

    Args:
        network: changed in place; has the weights that were best on the validation part in the end.
        train, valid: labelled images.
        steps: at least 1.
        factor: the encoder's rate to the rate of what is put on it.
        seed: of the order and the augmentation.

    Returns:
        What the validation part says of those weights.
    """
    if network.task == SEGMENTATION:
        start_at_shares(network, train.masks)
    generator = torch_generator("transfer", "fine-tuning", seed)
    peak, size = LEARNING_RATES[network.task], BATCHES[network.task]
    put_on = [p for name, p in network.named_parameters() if not name.startswith("encoder.")]
    groups = [{"params": put_on, "peak": peak}, {"params": network.encoder.parameters(), "peak": factor * peak}]
    optimizer = torch.optim.Adam(groups, fused=True)
    looks = {round(steps * (i + 1) / LOOKS) for i in range(LOOKS)}
    best, weights = Verdict(float("-inf"), None), {}
    network.train()
    for step, indices in enumerate(batches(len(train.images), size, steps, generator)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, group["peak"])
        batch = augment(train.take(indices.to(train.images.device)), generator)
        optimizer.zero_grad()
        loss_of(network.task, network(batch.images), batch).backward()
        optimizer.step()
        if step + 1 in looks:
            verdict = judge(network, valid)
            if verdict.number > best.number:
                best, weights = verdict, deepcopy(network.state_dict())
    network.load_state_dict(weights)
    return best


def loss_of(task: str, outputs: Tensor, truth: Phantoms) -> Tensor:
    """Of logits, N 1 or N 2 S S."""
    if task == CLASSIFICATION:
        return F.binary_cross_entropy_with_logits(outputs, truth.nodule)
    return region_loss(outputs, truth.masks)


def judge(network: Network, valid: Phantoms) -> Verdict:
    """A network's number on the validation part, and the thresholds chosen there.

    After a few steps a region's level may be off where its shape is right, so that a fixed threshold misleads.
    """
    outputs = predict(network, valid.images)
    thresholds = best_thresholds(outputs, valid) if network.task == SEGMENTATION else None
    return Verdict(overall(score(network.task, outputs, valid, thresholds)), thresholds)


@torch.no_grad()
def start_at_shares(network: Network, masks: Tensor) -> None:
    """Let the head begin with every region's share of the pixels, as Lin et al. (Focal Loss, 2017) do for rare classes.

    From one half, the steps that there are go into saying that a nodule is nowhere.
    """
    shares = masks.mean(dim=(0, 2, 3)).clamp(1e-4, 1 - 1e-4)
    network.head[0].bias.copy_(shares.logit())


@torch.no_grad()
def predict(network: Network, images: Tensor) -> Tensor:
    """Probabilities of uint8 N 1 S S, BatchNorm by its running statistics; leaves the network in training mode."""
    network.eval()
    outputs = torch.cat([network(batch) for batch in images.split(PREDICTION_BATCH)])
    network.train()
    return outputs.sigmoid()
