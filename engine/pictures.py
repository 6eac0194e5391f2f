"""Pictures of the restoration: input, target, and the network's restoration at every stage."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.utils import make_grid

from engine.recorder import Recorder
from utils.records import Output, Views

SAMPLES = 4
BATCH = 16  # images restored together, enough for BatchNorm's statistics
SMALLEST = 128  # pixels, side of a picture; smaller pictures are enlarged


def middle_slice(images: Tensor) -> Tensor:
    """The first channel, B 1 H W, of images B C *S; of volumes the middle slice in z (rows are y, columns are x)."""
    grey = images[:, :1].float()
    return grey[..., grey.shape[-1] // 2].transpose(2, 3) if grey.dim() == 5 else grey


def to_unit_range(images: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Grey values, B 1 H W, rescaled from each sample's ``low``..``high`` to 0..1 and clipped."""
    return ((images - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)


def extremes(images: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of each of B 1 H W, each B 1 1 1."""
    return images.amin(dim=(1, 2, 3), keepdim=True), images.amax(dim=(1, 2, 3), keepdim=True)


@torch.no_grad()
def restoration_grid(model: nn.Module, views: Views) -> Tensor:
    """One row for each sample: input, target, final restoration, intermediate restorations from deepest to shallowest.

    Restorations have the grey range of their target. The input has its own range, since its normalisation differs.

    Returns:
        A picture, 3 H W in 0..1.
    """
    output = forward_in_training_mode(model, views.global1[:BATCH])
    target = middle_slice(views.target[:SAMPLES])
    source = middle_slice(views.global1[:SAMPLES])
    images = [image for image in (output.restoration, *output.intermediate) if image is not None]
    restorations = [middle_slice(image[:SAMPLES]) for image in images]
    columns = [to_unit_range(source, *extremes(source))]
    columns += [to_unit_range(image, *extremes(target)) for image in (target, *restorations)]
    rows = torch.stack(columns, dim=1).flatten(0, 1)
    rows = interpolate(rows, scale_factor=float(max(1, SMALLEST // rows.shape[-1])), mode="nearest")
    return make_grid(rows.cpu(), nrow=len(columns), padding=2, pad_value=1.0)


@torch.no_grad()
def forward_in_training_mode(model: nn.Module, images: Tensor) -> Output:
    """The output in training mode, as the loss gets it: BatchNorm uses the statistics of the batch.

    Running statistics lag behind the weights, and in the first epochs would give restorations unlike those in the loss.
    They are not changed.
    """
    buffers = [buffer.clone() for buffer in model.buffers()]
    was_training = model.training
    output = model.train()(images)
    model.train(was_training)
    for buffer, before in zip(model.buffers(), buffers, strict=True):
        buffer.copy_(before)
    return output


class RestorationPictures:
    """Records the restorations of an epoch's last batch, every ``every`` epochs and after the last."""

    def __init__(
        self, model: nn.Module, make_views: Callable[[Any, int], Views], recorder: Recorder, *, every: int, epochs: int
    ) -> None:
        self.model, self.make_views, self.recorder = model, make_views, recorder
        self.every, self.epochs = every, epochs

    def __call__(self, epoch: int, batch: Any) -> None:
        if self.recorder.active and batch is not None and (epoch % self.every == 0 or epoch == self.epochs):
            picture = restoration_grid(self.model, self.make_views(batch, epoch))
            self.recorder.image("restorations", picture, epoch)
