"""Crop random boxes of images and resize them with antialiasing, as torchvision's RandomResizedCrop on PIL images."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from data.transforms.interleaved import interleave, resize_box
from utils.plain import plain

RATIO = (3 / 4, 4 / 3)
TRIES = 10


class Boxes(NamedTuple):
    """Boxes of N images in pixels, int64."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor


def draw_boxes(sizes: Tensor, area: tuple[float, float], generator: torch.Generator) -> Boxes:
    """Draw one box in each of N images of ``sizes`` (N 2: height, width in pixels).

    The share of the image's area is uniform in ``area`` and the aspect ratio log-uniform in 3/4..4/3. The first of ten
    tries that fits gets a uniform position. If none fits, the box is the largest central one of an allowed ratio.
    """
    n, device = len(sizes), generator.device
    share = torch.rand(n, TRIES, generator=generator, device=device) * (area[1] - area[0]) + area[0]
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    ratio = torch.exp(torch.rand(n, TRIES, generator=generator, device=device) * (high - low) + low)
    position = torch.rand(n, 2, generator=generator, device=device).double()

    # From here on, the last axis is height, width; both are computed together, since each operation is a launch.
    sizes = sizes.to(device).double()
    pixels = (sizes[:, 0] * sizes[:, 1]).unsqueeze(1) * share
    tries = torch.stack([pixels / ratio, pixels * ratio], dim=2).sqrt_().round_()
    fits = ((tries > 0) & (tries <= sizes.unsqueeze(1))).all(dim=2)
    first = fits.int().argmax(dim=1).view(n, 1, 1)
    found = fits.any(dim=1, keepdim=True)
    central = torch.minimum(sizes, (sizes.flip(1) / RATIO[0]).round_())
    box = torch.where(found, tries.gather(1, first.expand(-1, -1, 2)).squeeze(1), central)
    room = sizes - box
    start = torch.where(found, position * (room + 1), room / 2).floor_()
    return Boxes(*torch.cat([start, box], dim=1).long().unbind(1))


class Cropper:
    """Crops boxes of a batch of images and resizes them; can be called for several output sizes.

    On a CPU, each box is resized by torch's kernel for 8-bit images, to within one grey level of PIL. On a GPU, all
    boxes are resized together by matrices, since copying their sizes to the host would make it wait.

    Args:
        images: uint8 B 1 H W.
    """

    def __init__(self, images: Tensor) -> None:
        self.images = images
        self.fours = interleave(images) if images.device.type == "cpu" and not plain() else None

    def __call__(self, boxes: Boxes, size: int) -> Tensor:
        """Crop boxes of K views of each image (B·K, view 0 of all images first) and resize to uint8 B·K size size."""
        if self.images.device.type != "cpu":
            return resize_by_matrices(self.images, boxes, size)
        views = torch.empty((len(boxes.top), size, size), dtype=torch.uint8)
        for i, box in enumerate(torch.stack(boxes, dim=1).tolist()):
            views[i] = self._resized(i % len(self.images), box, size)
        return views

    def _resized(self, image: int, box: list[int], size: int) -> Tensor:
        """Crop and resize one box of one image on a CPU."""
        if self.fours is not None:
            return torch.from_numpy(resize_box(self.fours[image], box, size))
        top, left, height, width = box
        pixels = self.images[image : image + 1, :, top : top + height, left : left + width]
        return F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)[0, 0]


def resized_crop(images: Tensor, boxes: Boxes, size: int) -> Tensor:
    """Crop boxes and resize them to one size with a :class:`Cropper`."""
    return Cropper(images)(boxes, size)


def resize_matrix(start: Tensor, length: Tensor, size: int, full: int) -> Tensor:
    """N size full: weight of each input pixel for each output pixel along one axis, by PIL's antialiased triangle."""
    start, length = start.view(-1, 1, 1), length.view(-1, 1, 1)
    scale = length / size
    centre = torch.arange(0.5, size, device=start.device).view(1, -1, 1) * scale
    # Centres of the pixels, from the beginning of the box.
    source = torch.arange(0.5, full, device=start.device) - start
    weights = (1 - (source - centre).div_(scale.clamp(min=1)).abs_()).clamp_(min=0)
    weights *= (source > 0) & (source < length)
    return weights.div_(weights.sum(dim=2, keepdim=True))


def resize_by_matrices(images: Tensor, boxes: Boxes, size: int) -> Tensor:
    """As :func:`resized_crop`, with a matrix along each axis; all views of all images in the same few operations."""
    n, _, height, width = images.shape
    # K views of B images to B images of K views, so that one product resizes all views of an image along the rows.
    top, left, h, w = (x.view(-1, n).T for x in boxes)
    starts, lengths = torch.stack([left, top]), torch.stack([w, h])
    along_x, along_y = resize_matrix(starts, lengths, size, max(height, width)).chunk(2)
    rows = along_x[..., :width].view(n, -1, width)
    # As in PIL, values are rounded half up to 8 bits after each of the two passes.
    columns = torch.bmm(rows, images[:, 0].float().transpose(1, 2)).add_(0.5).floor_()
    columns = columns.view(-1, size, height).transpose(1, 2)
    resized = torch.bmm(along_y[..., :height], columns).add_(0.5).clamp_(0, 255).to(torch.uint8)
    return resized.view(n, -1, size, size).transpose(0, 1).reshape(-1, size, size)
