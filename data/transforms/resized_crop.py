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
    height, width = sizes.to(device).double().unbind(1)
    share = torch.rand(n, TRIES, generator=generator, device=device) * (area[1] - area[0]) + area[0]
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    ratio = torch.exp(torch.rand(n, TRIES, generator=generator, device=device) * (high - low) + low)
    position = torch.rand(n, 2, generator=generator, device=device).double()

    pixels = (height * width).unsqueeze(1) * share
    w, h = torch.round(torch.sqrt(pixels * ratio)), torch.round(torch.sqrt(pixels / ratio))
    fits = (w > 0) & (w <= width.unsqueeze(1)) & (h > 0) & (h <= height.unsqueeze(1))
    first = fits.long().argmax(dim=1, keepdim=True)
    found = fits.any(dim=1)
    central_w = torch.minimum(width, torch.round(height * RATIO[1]))
    central_h = torch.minimum(height, torch.round(width / RATIO[0]))
    w = torch.where(found, w.gather(1, first).squeeze(1), central_w)
    h = torch.where(found, h.gather(1, first).squeeze(1), central_h)
    top = torch.where(found, torch.floor(position[:, 0] * (height - h + 1)), torch.floor((height - h) / 2))
    left = torch.where(found, torch.floor(position[:, 1] * (width - w + 1)), torch.floor((width - w) / 2))
    return Boxes(*(x.long() for x in (top, left, h, w)))


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
    scale = (length.float() / size).view(-1, 1, 1)
    centre = (torch.arange(size, device=start.device).view(1, -1, 1) + 0.5) * scale
    source = torch.arange(full, device=start.device).view(1, 1, -1) - start.view(-1, 1, 1)
    weights = (1 - ((source + 0.5 - centre) / scale.clamp(min=1)).abs()).clamp(min=0)
    weights = weights * ((source >= 0) & (source < length.view(-1, 1, 1)))
    return weights / weights.sum(dim=2, keepdim=True)


def resize_by_matrices(images: Tensor, boxes: Boxes, size: int) -> Tensor:
    """As :func:`resized_crop`, with a matrix along each axis."""
    _, _, height, width = images.shape
    pixels = images[:, 0].float()
    views = []
    for top, left, h, w in zip(*(x.split(len(images)) for x in boxes), strict=True):
        columns = pixels @ resize_matrix(left, w, size, width).transpose(1, 2)
        # As in PIL, values are rounded half up to 8 bits after each of the two passes.
        lines = resize_matrix(top, h, size, height) @ columns.add_(0.5).floor_()
        views.append(lines.add_(0.5).clamp_(0, 255).to(torch.uint8))
    return torch.cat(views)
