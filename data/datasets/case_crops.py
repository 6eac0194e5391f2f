"""Random crops of a prepared case."""

from collections.abc import Sequence

import numpy as np

from data.datasets.cases import Prepared, scaled

# Half of the crops contain a voxel of some region, the others are anywhere: a liver fills a few percent of a scan.
FOREGROUND_SHARE = 0.5


def draw_start(labels: np.ndarray, crop: Sequence[int], rng: np.random.Generator) -> list[int]:
    """Draw the first voxel of a crop: half of the crops are anywhere, half contain a random voxel of a region."""
    largest = [max(n - c, 0) for n, c in zip(labels.shape, crop, strict=True)]
    anywhere = rng.random() >= FOREGROUND_SHARE
    start = [int(rng.integers(r, endpoint=True)) for r in largest]
    if anywhere or not largest:
        return start
    inside = np.flatnonzero(labels)
    if not len(inside):
        return start
    voxel = np.unravel_index(int(inside[rng.integers(len(inside))]), labels.shape)
    return [min(max(int(v) - int(rng.integers(c)), 0), r) for v, c, r in zip(voxel, crop, largest, strict=True)]


def cut_crop(prepared: Prepared, start: Sequence[int], crop: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Cut (image float32 C *crop in 0..1, labels uint8 *crop); beyond the end of a small image both are 0."""
    box = tuple(slice(s, s + c) for s, c in zip(start, crop, strict=True))
    image = scaled(prepared.image[(slice(None), *box)], prepared.low, prepared.high)
    labels = np.array(prepared.labels[box])
    missing = [(0, c - n) for c, n in zip(crop, labels.shape, strict=True)]
    return np.pad(image, [(0, 0), *missing]), np.pad(labels, missing)
