"""Hounsfield units to 0..1, by a window of −1000 to 1000 HU."""

import numpy as np

LOWEST, HIGHEST = -1000, 1000  # HU that become 0 and 1


def scale(volume: np.ndarray) -> np.ndarray:
    """HU to float32 in 0..1: clipped to −1000..1000 HU."""
    scaled = clipped(volume)
    scaled -= np.float32(LOWEST)
    scaled /= np.float32(HIGHEST - LOWEST)
    return scaled


def clipped(volume: np.ndarray) -> np.ndarray:
    """Numbers of any kind to float32 of −1000..1000, in one pass; axes keep their order in memory."""
    clipped = np.empty_like(volume, dtype=np.float32)
    return np.clip(volume, LOWEST, HIGHEST, out=clipped, casting="unsafe")
