"""Samples as pictures: views of pre-training, and inputs of fine-tuning, probes, predictions and features."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from checks.sheet import Shown, evenly
from data.loader import RandomAccessByEpoch
from data.views2d import MEAN, STD
from engine.pictures import extremes, middle_slice, to_unit_range
from evaluation.mask_pictures import draw_borders
from utils.errors import UserError
from utils.seeding import torch_generator

MOST_PICTURES = 5  # of a sample
VIEWS = "first global view, its target, second global view, two local views"

ShowBatch = Callable[[Any, torch.Generator], tuple[str, Sequence[np.ndarray]]]
"""A batch of one sample to what is said of it, and pictures."""


def show_samples(dataset: Any, show: ShowBatch, seed: int) -> Iterator[Shown]:
    """Yield up to 16 samples of the first epoch, evenly over the data set; the next one for a broken one."""
    starts = evenly(len(dataset))
    for start, end in zip(starts, [*starts[1:], len(dataset)], strict=True):
        for index in range(start, min(end, start + 5)):
            try:
                by_epoch = isinstance(dataset, RandomAccessByEpoch)
                sample = dataset.draw(0, index) if by_epoch else dataset[index]
            except (UserError, OSError):
                continue
            about, pictures = show(dataset.collate([sample]), torch_generator(seed, "check", index))
            yield Shown(dataset.name(index), pictures, about)
            break


def grey(images: Tensor) -> np.ndarray:
    """Return the first of a network's inputs, B C *S, as uint8 H W; of volumes the middle slice."""
    if images.ndim == 4:
        return to_bytes(images[0, 0] * STD[0] + MEAN[0])
    plane = middle_slice(images[:1])
    return to_bytes(to_unit_range(plane, *extremes(plane))[0, 0])


def to_bytes(plane: Tensor) -> np.ndarray:
    """Convert H W in 0..1 to uint8."""
    return (plane.float().clamp(0, 1) * 255).round().byte().numpy()


def show_views(make_views: Callable[..., Any]) -> ShowBatch:
    """Return how samples of pre-training are shown: as VIEWS."""

    def show(batch: Any, generator: torch.Generator) -> tuple[str, Sequence[np.ndarray]]:
        views = make_views(batch, generator)
        target = grey(views.target) if views.target.ndim == 4 else to_bytes(middle_slice(views.target)[0, 0])
        local = [grey(views.local[:, i]) for i in range(min(2, views.local.shape[1]))]
        return "", [grey(views.global1), target, grey(views.global2), *local]

    return show


def show_labels(make_inputs: Callable[..., tuple[Tensor, Tensor]], classes: Sequence[str]) -> ShowBatch:
    """Return how labelled samples are shown: inputs, and the names of what is 1."""

    def show(batch: Any, generator: torch.Generator) -> tuple[str, Sequence[np.ndarray]]:
        inputs, labels = make_inputs(batch, generator)
        positive = [name for name, label in zip(classes, labels[0].tolist(), strict=True) if label == 1]
        return ", ".join(positive) or "no label is 1", [grey(one[None]) for one in windows_of(inputs)]

    return show


def windows_of(inputs: Tensor) -> list[Tensor]:
    """Return some of the windows, C *S, of one sample: N C *S."""
    step = -(-len(inputs) // MOST_PICTURES)
    return list(inputs[step // 2 :: step])


def show_masks(make_inputs: Callable[..., tuple[Tensor, Tensor]]) -> ShowBatch:
    """Return how crops of a segmentation are shown: the channels, then the borders of the mask on the first one."""

    def show(batch: Any, generator: torch.Generator) -> tuple[str, Sequence[np.ndarray]]:
        inputs, masks = make_inputs(batch, generator)
        image, mask = inputs[0], masks[0].bool()
        if mask.ndim == 4:  # K X Y Z: the slice with most of the regions; rows are y
            z = int(mask.sum(dim=(0, 1, 2)).argmax()) if mask.any() else mask.shape[-1] // 2
            image, mask = image[..., z].transpose(1, 2), mask[..., z].transpose(1, 2)
            planes = [to_bytes(channel) for channel in image]
        else:
            planes = [grey(inputs)]
        return "", [*planes, np.array(draw_borders(planes[0] / 255, list(mask.numpy())))]

    return show


def show_windows(batch: Any, generator: torch.Generator) -> tuple[str, Sequence[np.ndarray]]:
    """Show some of the windows of a file, with which its batch begins."""
    return "", [grey(one[None]) for one in windows_of(batch[0])]


def show_channels(to_input: Callable[[Tensor], Tensor]) -> ShowBatch:
    """Return how whole images to segment are shown: channel by channel."""

    def show(batch: Any, generator: torch.Generator) -> tuple[str, Sequence[np.ndarray]]:
        inputs = to_input(batch.image[None])
        channels = [inputs] if inputs.ndim == 4 else inputs.split(1, dim=1)
        return "", [grey(channel) for channel in channels]

    return show
