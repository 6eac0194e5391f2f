"""Pictures of what the network restores: target, input, and the restoration at every stage."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.utils import make_grid

from engine.recorder import Recorder
from utils.records import Output, Views

SAMPLES = 4
BATCH = 16  # images that are restored at once, so that BatchNorm has enough to go by
SMALLEST = 128  # pixels, side of a picture; smaller ones are enlarged


def middle_slice(images: Tensor) -> Tensor:
    """B C *S to grey B 1 H W: the first channel, of a volume its middle slice in z (rows are y, columns x)."""
    grey = images[:, :1].float()
    return grey[..., grey.shape[-1] // 2].transpose(2, 3) if grey.dim() == 5 else grey


def to_unit_range(images: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Grey values of B 1 H W brought to 0..1 by each sample's own ``low`` and ``high``."""
    return ((images - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)


def extremes(images: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of each of B 1 H W, each B 1 1 1."""
    return images.amin(dim=(1, 2, 3), keepdim=True), images.amax(dim=(1, 2, 3), keepdim=True)


@torch.no_grad()
def restoration_grid(model: nn.Module, views: Views) -> Tensor:
    """One row a sample: input, target, final restoration, then the intermediate ones from deepest to shallowest.

    Restorations are shown in the grey range of their target, the input in its own, since it is normalised otherwise.

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
    """What the loss sees: BatchNorm uses the batch's own statistics, and its running ones are left as they were.

    The running ones follow the weights with a delay, which in the first epochs shows restorations that nobody trained.
    """
    buffers = [buffer.clone() for buffer in model.buffers()]
    was_training = model.training
    output = model.train()(images)
    model.train(was_training)
    for buffer, before in zip(model.buffers(), buffers, strict=True):
        buffer.copy_(before)
    return output


class RestorationPictures:
    """Puts the restorations of an epoch's last batch into TensorBoard, every few epochs and at the last."""

    def __init__(
        self, model: nn.Module, make_views: Callable[[Any, int], Views], recorder: Recorder, *, every: int, epochs: int
    ) -> None:
        self.model, self.make_views, self.recorder = model, make_views, recorder
        self.every, self.epochs = every, epochs

    def __call__(self, epoch: int, batch: Any) -> None:
        if self.recorder.active and batch is not None and (epoch % self.every == 0 or epoch == self.epochs):
            picture = restoration_grid(self.model, self.make_views(batch, epoch))
            self.recorder.image("restorations", picture, epoch)
