"""What fine-tuning and evaluation show the network: a raw batch on the device to inputs and labels."""

from collections.abc import Callable

import torch
from torch import Tensor

from data import views2d, views3d
from data.transforms.intensity3d import z_normalize
from data.transforms.resized_crop import Cropper
from utils.records import LabelledCrops, LabelledCubes, LabelledImages


def eval_cubes(batch: LabelledCubes) -> tuple[Tensor, Tensor]:
    """Inputs, float32 B 1 X Y Z, z-normalised as in pre-training, and labels, B 1."""
    return z_normalize(batch.cubes[:, 0]).unsqueeze(1), batch.labels


class AugmentedCubes:
    """Raw batch to inputs: flipped, scaled and turned as in pre-training, each by its own draws, then z-normalised."""

    def __call__(self, batch: LabelledCubes, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Inputs, float32 B 1 X Y Z, and labels, B 1."""
        cubes = views3d.apply_spatial(batch.cubes[:, 0], views3d.draw_spatial(len(batch.cubes), generator))
        return z_normalize(cubes).unsqueeze(1), batch.labels


# RandomResizedCrop's own, which the published fine-tuning left as they are.
AREA = (0.08, 1.0)


class AugmentedInputs:
    """Raw batch to inputs: RandomResizedCrop, rotation U(±10°), flip, normalised; every image has its own draws.

    Args:
        size: side of an input in pixels.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, batch: LabelledImages, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Inputs, float32 B 3 S S, and labels, B K."""
        spatial = views2d.draw_spatial(batch.sizes, AREA, generator)
        views = views2d.apply_spatial(Cropper(batch.pixels), spatial, self.size)
        return views2d.normalize(views), batch.labels


def eval_inputs(batch: LabelledImages) -> tuple[Tensor, Tensor]:
    """Inputs, float32 B 3 S S, and labels, B K, of images that are cut to size already."""
    return views2d.normalize(batch.pixels[:, 0].float()), batch.labels


class FlippedCrops:
    """A batch of crops to inputs: each flipped with p ½ along each of some axes, every sample with its own draws.

    Args:
        dim: 3 flips along every axis, as published for BraTS; 2 along the last one alone, left and right.
    """

    def __init__(self, dim: int) -> None:
        self.axes = (2, 3, 4) if dim == 3 else (3,)
        self.to_input = as_input(dim)

    def __call__(self, batch: LabelledCrops, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Inputs, float32 B C *S, and masks, uint8 B K *S."""
        images, masks = batch.images, batch.masks
        for axis in self.axes:
            flip = torch.rand(len(images), generator=generator, device=generator.device) < 0.5
            flip = flip.view(-1, *[1] * (images.ndim - 1))
            images, masks = (torch.where(flip, x.flip(axis), x) for x in (images, masks))
        return self.to_input(images), masks


def as_input(dim: int) -> Callable[[Tensor], Tensor]:
    """Images of 0..1, B C *S, to what the encoder knows: in 2D B 3 H W, normalised as for pre-training."""
    return _normalized_grey if dim == 2 else _as_it_is


def _normalized_grey(images: Tensor) -> Tensor:
    return views2d.normalize(images[:, 0] * 255)


def _as_it_is(images: Tensor) -> Tensor:
    return images
