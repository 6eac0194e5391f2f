"""Resize boxes of grey images on a CPU four rows at a time, in two fifths of the time of one row at a time.

torch's kernel for 8-bit images always computes four channels, and copies a grey image into four. Here four rows of the
image are passed as its channels. The results are the same.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Channels that torch's kernel computes together.
LANES = 4


def interleave(images: Tensor) -> np.ndarray:
    """Rearrange uint8 B 1 H W to B ⌈H/4⌉ W 4: rows 4k to 4k + 3 as channels; missing last rows are 0."""
    n, _, height, width = images.shape
    even = F.pad(images, (0, 0, 0, -height % LANES)) if height % LANES else images
    lines = even.reshape(n, -1, LANES, width).numpy()
    fours = np.empty((n, lines.shape[1], width, LANES), np.uint8)
    # One image and lane at a time is twice as fast as one copy of all, which accesses memory in small steps.
    for image, four in zip(lines, fours, strict=True):
        for lane in range(LANES):
            four[:, :, lane] = image[:, lane]
    return fours


def resize_box(fours: np.ndarray, box: Sequence[int], size: int) -> np.ndarray:
    """Resize a box (top, left, height, width) of one interleaved image (⌈H/4⌉ W 4) to uint8 size size.

    As in PIL, rows are resized first, then the columns of the result.
    """
    top, left, height, width = box
    first, last = top // LANES, (top + height - 1) // LANES + 1
    rows = _resize(fours[first:last, left : left + width], (last - first, size))
    # Undo the interleaving; NumPy does this several times as fast as torch.
    lines = np.ascontiguousarray(rows.transpose(0, 2, 1)).reshape(-1, size)[top % LANES :][:height]
    beyond = -size % LANES
    columns = (np.pad(lines, ((0, 0), (0, beyond))) if beyond else lines).reshape(height, -1, LANES)
    return _resize(columns, (size, columns.shape[1])).reshape(size, -1)[:, :size]


def _resize(fours: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize H W 4 to h w 4."""
    channels_last = torch.from_numpy(np.ascontiguousarray(fours)).unsqueeze(0).permute(0, 3, 1, 2)
    resized = F.interpolate(channels_last, size=size, mode="bilinear", antialias=True)
    return resized.numpy()[0].transpose(1, 2, 0)
