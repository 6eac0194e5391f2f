"""Choose and cut the boxes of a CT scan that become a crop pair and its local crops.

The steps and numbers are in docs/reference.md, "Crop pairs of LUNA16".
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data.transforms.hounsfield import HIGHEST, LOWEST, clipped, scale
from data.transforms.resize3d import resize

# Sizes of the boxes of global and local crops, voxels of 1 mm; each is drawn with the same probability.
GLOBAL_SIZES = np.array([(96, 96, 64), (96, 96, 96), (112, 112, 64), (64, 64, 32)])
LOCAL_SIZES = np.array([(32, 32, 16), (16, 16, 16), (32, 32, 32), (8, 8, 8)])
BORDER = np.array([70, 70, 15])  # voxels kept between a box and the border of the scan, which is not lung
SMALLER = np.array([32, 32, 0])  # voxels by which a box shrinks where the scan is too narrow for it
EXTRA_SLICES = 3  # slices cut beyond the box in z, of which the tissue score reads the first
LEAST_IOU = 0.3
N_LOCAL = 6
LOCAL_SHAPE = (16, 16, 16)
LOCAL_MARGIN = 3  # voxels by which local crops may start outside the union of the pair

TISSUE = (-150 - LOWEST) / (HIGHEST - LOWEST)  # −150 HU, scaled to 0..1
MAX_TISSUE = 0.15  # share of a box's voxels
FLAT = 1e-4  # below: rounding of a crop of one value, such as the background of an MRI
SHAPE = (64, 64, 32)  # voxels of a published crop
# Pairs of boxes drawn at a time; about a twentieth of them overlap enough.
DRAWN_AT_ONCE = 256
# Failed tries in a row after which a scan is given up, where the published program looped for ever.
TRIES = 500

Box = tuple[int, int, int, int, int, int]
"""(x0, x1, y0, y1, z0, z1) in voxels of 1 mm, the ends not included."""


class BoxLimits(NamedTuple):
    """The sizes and positions of boxes that fit into a scan, in voxels of 1 mm."""

    sizes: np.ndarray
    """int64, N 3: x, y, z."""
    low: np.ndarray
    """int64, N 3: the lowest start of a box of each size."""
    high: np.ndarray
    """int64, N 3: the highest start, included."""
    narrow: bool
    """Whether the borders had to shrink."""


def cut(volume: np.ndarray, box: Box, shape: tuple[int, int, int]) -> np.ndarray:
    """Cut a box out of a scan and resize it.

    Args:
        volume: X Y Z, either floating point scaled to 0..1, or integers in HU, which are scaled after the cut.
        box: cut short where it extends beyond the volume.
        shape: voxels of the result.

    Returns:
        float32 of ``shape``.

    Raises:
        ValueError: the box is outside the volume.
    """
    x0, x1, y0, y1, z0, z1 = (max(0, int(side)) for side in box)
    part = volume[x0:x1, y0:y1, z0:z1]
    if not part.size:
        raise ValueError(f"expected a box within a volume of {volume.shape}, got {tuple(box)}")
    if volume.dtype.kind == "f":
        return np.ascontiguousarray(resize(part.astype(np.float32, copy=False), shape))
    # Resizing is linear and its weights sum to 1, so the small result is scaled instead of the box.
    return scale(np.ascontiguousarray(resize(clipped(part), shape)))


def tissue_score(crop: np.ndarray, depth: int | None = None) -> float:
    """Count the voxels of soft tissue or denser (−150 HU or more); a voxel counts ½ if only the next slice's is tissue.

    Args:
        crop: X Y Z in 0..1, as published with at least two slices beyond the scored ones.
        depth: the slices scored; by default 32, or all but two where the crop has fewer.

    Returns:
        The sum over the voxels scored.
    """
    depth = min(SHAPE[2], crop.shape[2] - 2) if depth is None else depth
    tissue = crop[:, :, : depth + 1] >= TISSUE
    own, following = tissue[:, :, :depth], tissue[:, :, 1:]
    return float(np.count_nonzero(own) + 0.5 * np.count_nonzero(following & ~own))


def find_limits(
    shape: tuple[int, ...], box_scale: tuple[float, float] = (1, 1), border: Sequence[int] | np.ndarray = BORDER
) -> BoxLimits:  # fmt: skip
    """Find where boxes may start in a scan of ``shape``; boxes are ``box_scale`` times the published size in x and y.

    A box that does not fit between the borders in x is made 32 voxels smaller in x and y. If it still does not fit,
    each border shrinks to a quarter of the free space, so that positions still vary. A box larger than the scan is
    left out.
    """
    space = np.array(shape) - np.array([0, 0, EXTRA_SLICES])
    sizes, smaller = (np.rint(x * np.array([*box_scale, 1])).astype(int) for x in (GLOBAL_SIZES, SMALLER))
    tight = sizes[:, 0] > space[0] - 2 * border[0]
    sizes = np.where(tight[:, None], sizes - smaller, sizes)
    sizes = sizes[(sizes > 0).all(axis=1) & (sizes <= space).all(axis=1)]
    left, wanted = space - sizes, np.array(border)
    low = np.where(left >= 2 * wanted, wanted, left // 4)
    return BoxLimits(sizes, low, left - low, bool((low < wanted).any()))


def reachable_region(limits: BoxLimits, shape: tuple[int, ...]) -> tuple[slice, slice, slice]:
    """The region of a scan of ``shape`` from which crops can come."""
    margin = LOCAL_MARGIN + LOCAL_SIZES.max(axis=0)
    low = (limits.low.min(axis=0) - LOCAL_MARGIN).clip(0)
    high = np.minimum((limits.high + limits.sizes).max(axis=0) + np.maximum(margin, [0, 0, EXTRA_SLICES]), shape)
    x, y, z = (slice(start, stop) for start, stop in zip(low.tolist(), high.tolist(), strict=True))
    return x, y, z


def draw_pairs(limits: BoxLimits, rng: np.random.Generator) -> np.ndarray:
    """Draw pairs of boxes whose intersection over union is above 0.3: int64, N 2 6; N varies from 0 to some dozens."""
    which = rng.integers(len(limits.sizes), size=(DRAWN_AT_ONCE, 2))
    start = rng.integers(limits.low[which], limits.high[which], endpoint=True)
    stop = start + limits.sizes[which]
    pairs = np.stack([start, stop], axis=-1).reshape(DRAWN_AT_ONCE, 2, 6)
    return pairs[iou(pairs[:, 0], pairs[:, 1]) > LEAST_IOU]


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes ``a`` and ``b`` (N 6 each), N."""
    common = np.minimum(a[:, 1::2], b[:, 1::2]) - np.maximum(a[:, ::2], b[:, ::2])
    intersection = common.clip(0).prod(axis=1)
    union = (a[:, 1::2] - a[:, ::2]).prod(axis=1) + (b[:, 1::2] - b[:, ::2]).prod(axis=1) - intersection
    return intersection / union


def cut_global(
    volume: np.ndarray, box: Box, shape: tuple[int, int, int], tissue: float | None = MAX_TISSUE
) -> np.ndarray | None:  # fmt: skip
    """The global crop of a box, float32 of ``shape``, or None where it has too much tissue.

    A published crop of 64×64×32 may score 15 % of the voxels that its box had before it was resized, so that a box of
    96³ is never rejected; for crops of other sizes the limit is scaled by their number of voxels.

    ``tissue``: that share; None for any, but not for a crop of one value, such as the background of an MRI.
    """
    x0, x1, y0, y1, z0, z1 = (int(side) for side in box)
    rows, cols, depth = shape
    crop = cut(volume, (x0, x1, y0, y1, z0, z1 + EXTRA_SLICES), (rows, cols, depth + EXTRA_SLICES))
    if tissue is None:
        return crop[:, :, :depth] if crop.max() - crop.min() > FLAT else None
    limit = tissue * (x1 - x0) * (y1 - y0) * (z1 - z0) * (rows * cols * depth / math.prod(SHAPE))
    if tissue_score(crop, depth) > limit:
        return None
    return crop[:, :, :depth]


def draw_locals(pair: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Draw the boxes of six local crops in and near a pair of boxes (2 6), in a scan of ``shape``: int64, 6 6."""
    low = pair[:, ::2].min(axis=0) - LOCAL_MARGIN
    high = pair[:, 1::2].max(axis=0) + LOCAL_MARGIN
    start = rng.integers(low, high, size=(N_LOCAL, 3)).clip(0, np.array(shape) - 1)
    sizes = LOCAL_SIZES[rng.integers(len(LOCAL_SIZES), size=N_LOCAL)]
    return np.stack([start, start + sizes], axis=-1).reshape(N_LOCAL, 6)
