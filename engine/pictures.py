"""Pictures of what the network restores: target, input, and the restoration at every stage."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.utils import make_grid

from engine.recorder import Recorder
from utils.records import Views

SAMPLES = 4


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
    was_training = model.training
    model.eval()
    output = model(views.global1[:SAMPLES])
    model.train(was_training)
    target = middle_slice(views.target[:SAMPLES])
    source = middle_slice(views.global1[:SAMPLES])
    restorations = [middle_slice(image) for image in (output.restoration, *output.intermediate)]
    columns = [to_unit_range(source, *extremes(source))]
    columns += [to_unit_range(image, *extremes(target)) for image in (target, *restorations)]
    rows = torch.stack(columns, dim=1).flatten(0, 1)
    return make_grid(rows.cpu(), nrow=len(columns), padding=2, pad_value=1.0)


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
