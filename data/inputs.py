"""Inputs of fine-tuning and evaluation: a raw batch on the device becomes inputs and labels."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from data import views2d, views3d
from data.transforms.intensity3d import z_normalize
from data.transforms.resized_crop import Cropper
from utils.records import LabelledCrops, LabelledCubes, LabelledImages, LabelledWindows


def eval_cubes(batch: LabelledCubes) -> tuple[Tensor, Tensor]:
    """Return inputs, float32 B 1 X Y Z, z-normalised as in pre-training, and labels, B 1."""
    return z_normalize(batch.cubes[:, 0]).unsqueeze(1), batch.labels


class AugmentedCubes:
    """Flips, scales and rotates cubes as in pre-training, each with its own draws, then z-normalises them."""

    def __call__(self, batch: LabelledCubes, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return inputs, float32 B 1 X Y Z, and labels, B 1."""
        cubes = views3d.apply_spatial(batch.cubes[:, 0], views3d.draw_spatial(len(batch.cubes), generator))
        return z_normalize(cubes).unsqueeze(1), batch.labels


# Share of the image's area: RandomResizedCrop's default, which the published fine-tuning uses.
AREA = (0.08, 1.0)


class AugmentedInputs:
    """Applies RandomResizedCrop, rotation U(±10°) and flip, each image with its own draws, then normalises.

    Args:
        size: side of an input in pixels.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, batch: LabelledImages, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return inputs, float32 B 3 S S, and labels, B K."""
        spatial = views2d.draw_spatial(batch.sizes, AREA, generator)
        views = views2d.apply_spatial(Cropper(batch.pixels), spatial, self.size)
        return views2d.normalize(views), batch.labels


def eval_inputs(batch: LabelledImages) -> tuple[Tensor, Tensor]:
    """Return inputs, float32 B 3 S S, and labels, B K, of images that are already cropped to size."""
    return views2d.normalize(batch.pixels[:, 0].float()), batch.labels


class FlippedCrops:
    """Flips crops along each axis with probability ½, each sample with its own draws.

    Args:
        dim: 3 to flip along every axis, as published for BraTS; 2 to flip only along the last one, left to right.
    """

    def __init__(self, dim: int) -> None:
        self.axes = (2, 3, 4) if dim == 3 else (3,)
        self.to_input = as_input(dim)

    def __call__(self, batch: LabelledCrops, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return inputs, float32 B C *S, and masks, uint8 B K *S."""
        images, masks = _flip((batch.images, batch.masks), self.axes, generator)
        return self.to_input(images), masks


def flipped_windows(batch: LabelledWindows, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Flip volumes along each axis with probability ½, each with its own draws, then z-normalise their windows.

    Returns:
        inputs, float32 B·W 1 X Y Z, all windows of the first volume first, and labels, B K.
    """
    (windows,) = _flip((batch.windows,), (2, 3, 4), generator)
    return z_normalize(windows.flatten(0, 1)).unsqueeze(1), batch.labels


def _flip(tensors: Sequence[Tensor], axes: Sequence[int], generator: torch.Generator) -> list[Tensor]:
    """Flip tensors of one batch alike, B ..., along each axis with probability ½, each sample with its own draws."""
    flipped = list(tensors)
    for axis in axes:
        flip = torch.rand(len(flipped[0]), generator=generator, device=generator.device) < 0.5
        flipped = [torch.where(flip.view(-1, *[1] * (x.ndim - 1)), x.flip(axis), x) for x in flipped]
    return flipped


def as_input(dim: int) -> Callable[[Tensor], Tensor]:
    """Return a function that maps images in 0..1, B C *S, to inputs: in 2D B 3 H W, normalised as in pre-training."""
    return _normalized_grey if dim == 2 else _unchanged


def _normalized_grey(images: Tensor) -> Tensor:
    return views2d.normalize(images[:, 0] * 255)


def _unchanged(images: Tensor) -> Tensor:
    return images
