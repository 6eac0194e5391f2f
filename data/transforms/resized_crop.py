"""Random boxes of images, resized to one size with antialias, as torchvision's RandomResizedCrop on PIL images."""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

RATIO = (3 / 4, 4 / 3)
TRIES = 10
# Channels that torch's kernel for 8-bit images computes at once.
LANES = 4


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


class Cropper:
    """Cuts boxes out of a batch of images and resizes them, to as many sizes as asked for.

    On a CPU each box is resized by torch's own kernel for 8-bit images, to within one grey level of PIL's. On a GPU
    boxes of all sizes are resized together by matrices, since reading their sizes back would hold up the host.

    Args:
        images: uint8 B 1 H W.
    """

    def __init__(self, images: Tensor) -> None:
        self.images = images
        self.fours = _in_fours(images) if images.device.type == "cpu" else None

    def __call__(self, boxes: Boxes, size: int) -> Tensor:
        """Boxes of K views of each image (B·K, view 0 of all images first) to uint8 B·K size size."""
        if self.fours is None:
            return resize_by_matrices(self.images, boxes, size)
        return _one_by_one(self.fours, boxes, size)


def resized_crop(images: Tensor, boxes: Boxes, size: int) -> Tensor:
    """Boxes of one size, as :class:`Cropper` does it."""
    return Cropper(images)(boxes, size)


def _one_by_one(fours: np.ndarray, boxes: Boxes, size: int) -> Tensor:
    """Along the rows and then, as PIL does, along the columns of the result, four lines at a time.

    torch's kernel computes four channels at once, and copies a grey image to four. Four lines of it as channels are
    resized in a fifth of the time, to the same numbers.
    """
    corners = torch.stack(boxes, dim=1).tolist()
    beyond = -size % LANES
    result = np.empty((len(corners), size, size), np.uint8)
    for i, (top, left, height, width) in enumerate(corners):
        first, last = top // LANES, (top + height - 1) // LANES + 1
        rows = _resize(fours[i % len(fours)][first:last, left : left + width], (last - first, size))
        # Four lines side by side to one below the other; numpy does this several times as fast as torch.
        lines = np.ascontiguousarray(rows.transpose(0, 2, 1)).reshape(-1, size)[top % LANES :][:height]
        columns = (np.pad(lines, ((0, 0), (0, beyond))) if beyond else lines).reshape(height, -1, LANES)
        result[i] = _resize(columns, (size, columns.shape[1])).reshape(size, -1)[:, :size]
    return torch.from_numpy(result)


def _in_fours(images: Tensor) -> np.ndarray:
    """B 1 H W to B ⌈H/4⌉ W 4: lines 4k to 4k + 3 side by side, below the last line black."""
    n, _, height, width = images.shape
    even = F.pad(images, (0, 0, 0, -height % LANES)) if height % LANES else images
    lines = even.reshape(n, -1, LANES, width).numpy()
    fours = np.empty((n, lines.shape[1], width, LANES), np.uint8)
    # Image by image and lane by lane: twice as fast as one copy of all, which walks through memory in small steps.
    for image, four in zip(lines, fours, strict=True):
        for lane in range(LANES):
            four[:, :, lane] = image[:, lane]
    return fours


def _resize(fours: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """H W 4 to h w 4."""
    channels_last = torch.from_numpy(np.ascontiguousarray(fours)).unsqueeze(0).permute(0, 3, 1, 2)
    resized = F.interpolate(channels_last, size=size, mode="bilinear", antialias=True)
    return resized.numpy()[0].transpose(1, 2, 0)


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
        # PIL rounds half up to 8 bits, between the two passes too, and so does this.
        lines = resize_matrix(top, h, size, height) @ columns.add_(0.5).floor_()
        views.append(lines.add_(0.5).clamp_(0, 255).to(torch.uint8))
    return torch.cat(views)
