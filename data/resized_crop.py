"""Random boxes of images, resized to one size with antialias, as torchvision's RandomResizedCrop on PIL images."""

import math
from typing import NamedTuple

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


def resized_crop(images: Tensor, boxes: Boxes, size: int) -> Tensor:
    """uint8 B 1 H W and boxes of K views of each (B·K, view 0 of all images first) to uint8 B·K size size.

    On a CPU each box is resized by torch's own kernel for 8-bit images, to within one grey level of PIL's. On a GPU
    boxes of all sizes are resized together by matrices, since reading their sizes back would hold up the host.
    """
    if images.device.type == "cpu":
        return _one_by_one(images, boxes, size)
    return resize_by_matrices(images, boxes, size)


def _one_by_one(images: Tensor, boxes: Boxes, size: int) -> Tensor:
    """Along the rows and then, as PIL does, along the columns of the result, four lines at a time.

    torch's kernel computes four channels at once, and copies a grey image to four. Four lines of it as channels are
    resized in a fifth of the time, to the same numbers.
    """
    corners = torch.stack(boxes, dim=1).tolist()
    rows = _in_fours(images[:, 0])
    beyond = -size % LANES
    result = torch.empty(len(corners), size, size, dtype=torch.uint8)
    for i, (top, left, height, width) in enumerate(corners):
        first, last = top // LANES, (top + height - 1) // LANES + 1
        box = rows[i % len(images), first:last, left : left + width]
        lines = _from_fours(_resize(box, (last - first, size)))[top - LANES * first :][:height]
        columns = (F.pad(lines, (0, beyond)) if beyond else lines).view(height, -1, LANES)
        result[i] = _resize(columns, (size, columns.shape[1])).view(size, -1)[:, :size]
    return result


def _in_fours(images: Tensor) -> Tensor:
    """B H W to B ⌈H/4⌉ W 4: lines 4k to 4k + 3 side by side; lines beyond the last hold anything."""
    b, height, width = images.shape
    fours = images.new_empty(b, -(-height // LANES), width, LANES)
    for lane in range(LANES):
        lines = images[:, lane::LANES]
        fours[:, : lines.shape[1], :, lane] = lines
    return fours


def _from_fours(fours: Tensor) -> Tensor:
    """R W 4 to 4·R W."""
    lines = fours.new_empty(len(fours), LANES, fours.shape[1])
    for lane in range(LANES):
        lines[:, lane] = fours[..., lane]
    return lines.flatten(0, 1)


def _resize(fours: Tensor, size: tuple[int, int]) -> Tensor:
    """H W 4 to h w 4."""
    channels_last = fours.contiguous().unsqueeze(0).permute(0, 3, 1, 2)
    resized = F.interpolate(channels_last, size=size, mode="bilinear", antialias=True)
    return resized.permute(0, 2, 3, 1)[0].contiguous()


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
