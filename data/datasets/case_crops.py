"""Crops of a prepared case, at places that are drawn."""

from collections.abc import Sequence

import numpy as np

from data.datasets.cases import Prepared, scaled

# Half of the crops hold a voxel of some region, the others lie anywhere: a liver fills a few percent of a scan.
FOREGROUND_SHARE = 0.5


def draw_start(labels: np.ndarray, crop: Sequence[int], rng: np.random.Generator) -> list[int]:
    """Where a crop begins: half of them anywhere, half so that some voxel of a region is anywhere in them."""
    room = [max(n - c, 0) for n, c in zip(labels.shape, crop, strict=True)]
    anywhere = rng.random() >= FOREGROUND_SHARE
    start = [int(rng.integers(r, endpoint=True)) for r in room]
    if anywhere or not room:
        return start
    inside = np.flatnonzero(labels)
    if not len(inside):
        return start
    voxel = np.unravel_index(int(inside[rng.integers(len(inside))]), labels.shape)
    return [min(max(int(v) - int(rng.integers(c)), 0), r) for v, c, r in zip(voxel, crop, room, strict=True)]


def cut_crop(prepared: Prepared, start: Sequence[int], crop: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(image float32 C *crop in 0..1, labels uint8 *crop); behind the end of a small image lies 0, and no region."""
    box = tuple(slice(s, s + c) for s, c in zip(start, crop, strict=True))
    image = scaled(prepared.image[(slice(None), *box)], prepared.low, prepared.high)
    labels = np.array(prepared.labels[box])
    missing = [(0, c - n) for c, n in zip(crop, labels.shape, strict=True)]
    return np.pad(image, [(0, 0), *missing]), np.pad(labels, missing)
