"""Random boxes of images, resized to one size with antialias, as torchvision's RandomResizedCrop on PIL images."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

RATIO = (3 / 4, 4 / 3)
TRIES = 10


class Boxes(NamedTuple):
    """Boxes of N images in pixels, int64."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor


def draw_boxes(sizes: Tensor, area: tuple[float, float], generator: torch.Generator) -> Boxes:
    """One box in each of N images of ``sizes`` (N 2: height, width).

    Ten tries of an area share, uniform in ``area``, and an aspect ratio, log-uniform in 3/4..4/3; the first that fits
    is put anywhere. Where none fits: the largest box about the centre whose ratio is allowed.
    """
    n, device = len(sizes), generator.device
    height, width = sizes.to(device).double().unbind(1)
    share = torch.rand(n, TRIES, generator=generator, device=device) * (area[1] - area[0]) + area[0]
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    ratio = torch.exp(torch.rand(n, TRIES, generator=generator, device=device) * (high - low) + low)
    where = torch.rand(n, 2, generator=generator, device=device).double()

    pixels = (height * width).unsqueeze(1) * share
    w, h = torch.round(torch.sqrt(pixels * ratio)), torch.round(torch.sqrt(pixels / ratio))
    fits = (w > 0) & (w <= width.unsqueeze(1)) & (h > 0) & (h <= height.unsqueeze(1))
    first = fits.long().argmax(dim=1, keepdim=True)
    found = fits.any(dim=1)
    central_w = torch.minimum(width, torch.round(height * RATIO[1]))
    central_h = torch.minimum(height, torch.round(width / RATIO[0]))
    w = torch.where(found, w.gather(1, first).squeeze(1), central_w)
    h = torch.where(found, h.gather(1, first).squeeze(1), central_h)
    top = torch.where(found, torch.floor(where[:, 0] * (height - h + 1)), torch.floor((height - h) / 2))
    left = torch.where(found, torch.floor(where[:, 1] * (width - w + 1)), torch.floor((width - w) / 2))
    return Boxes(*(x.long() for x in (top, left, h, w)))


def resized_crop(images: Tensor, boxes: Boxes, size: int) -> Tensor:
    """uint8 B 1 H W and boxes of K views of each (B·K, view 0 of all images first) to uint8 B·K size size.

    On a CPU each box is resized by torch's own kernel for 8-bit images, which equals PIL's. On a GPU boxes of all sizes
    are resized together by matrices, since reading their sizes back would hold up the host.
    """
    if images.device.type == "cpu":
        return _one_by_one(images, boxes, size)
    return resize_by_matrices(images, boxes, size)


def _one_by_one(images: Tensor, boxes: Boxes, size: int) -> Tensor:
    corners = torch.stack(boxes, dim=1).tolist()
    result = torch.empty(len(corners), size, size, dtype=torch.uint8)
    for i, (top, left, height, width) in enumerate(corners):
        box = images[i % len(images), :, top : top + height, left : left + width].unsqueeze(0)
        result[i] = F.interpolate(box, size=(size, size), mode="bilinear", antialias=True)[0, 0]
    return result


def resize_matrix(start: Tensor, length: Tensor, size: int, full: int) -> Tensor:
    """N size full: what each output pixel takes of each input pixel along one axis: PIL's antialiased triangle."""
    scale = (length.float() / size).view(-1, 1, 1)
    centre = (torch.arange(size, device=start.device).view(1, -1, 1) + 0.5) * scale
    source = torch.arange(full, device=start.device).view(1, 1, -1) - start.view(-1, 1, 1)
    weights = (1 - ((source + 0.5 - centre) / scale.clamp(min=1)).abs()).clamp(min=0)
    weights = weights * ((source >= 0) & (source < length.view(-1, 1, 1)))
    return weights / weights.sum(dim=2, keepdim=True)


def resize_by_matrices(images: Tensor, boxes: Boxes, size: int) -> Tensor:
    """As :func:`resized_crop`, by a matrix along each axis."""
    _, _, height, width = images.shape
    pixels = images[:, 0].float()
    views = []
    for top, left, h, w in zip(*(x.split(len(images)) for x in boxes), strict=True):
        columns = pixels @ resize_matrix(left, w, size, width).transpose(1, 2)
        # PIL rounds to 8 bits between the two passes, and so does this.
        views.append((resize_matrix(top, h, size, height) @ columns.round()).round())
    return torch.cat(views).clamp(0, 255).to(torch.uint8)
