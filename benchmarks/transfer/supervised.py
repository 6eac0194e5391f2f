"""The positive control: an encoder pre-trained with the labels of other phantoms, of the very tasks it is tested on.

It shows what there is to be won: where even this encoder does not beat a random one, none without labels could.
"""

import torch
from torch import nn

from benchmarks.transfer.networks import CLASSIFICATION, SEGMENTATION, Network, inputs_of
from benchmarks.transfer.phantoms import draw_phantoms
from benchmarks.transfer.settings import Settings
from benchmarks.transfer.tuning import LEARNING_RATES, augment, batches, loss_of, start_at_shares
from engine.precision import at_least_float32
from utils.schedules import learning_rate
from utils.seeding import seed_of, torch_generator

SUPERVISED = "supervised"
WARM_UP = 20  # steps


def train_supervised(replicate: int, settings: Settings) -> nn.Module:
    """An encoder that learnt both tasks at once, Adam with a warm-up and a cosine."""
    seed = seed_of(settings.seed, SUPERVISED, replicate)
    torch.manual_seed(seed)
    segmenter, classifier = (Network(task, settings.precision) for task in (SEGMENTATION, CLASSIFICATION))
    classifier.encoder = segmenter.encoder
    both = nn.ModuleList([segmenter, classifier]).to(settings.torch_device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    phantoms = draw_phantoms(settings.supervised, settings.size, SUPERVISED).to(settings.torch_device)
    start_at_shares(segmenter, phantoms.masks)
    generator = torch_generator(seed, "order")
    peak, steps = LEARNING_RATES[SEGMENTATION], settings.supervised_steps
    optimizer = torch.optim.Adam(both.parameters(), lr=peak, fused=True)
    for step, indices in enumerate(batches(settings.supervised, settings.batch, steps, generator)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak) * min(1.0, (step + 1) / WARM_UP)
        batch = augment(phantoms.take(indices.to(settings.torch_device)), generator)
        with settings.precision.autocast():
            features = segmenter.encoder(inputs_of(batch.images))
            outputs = {network.task: at_least_float32(network.read(features)) for network in (segmenter, classifier)}
        optimizer.zero_grad()
        torch.stack([loss_of(task, logits, batch) for task, logits in outputs.items()]).sum().backward()
        optimizer.step()
    return segmenter.encoder
