"""Scale Hounsfield units to 0..1 by a window of −1000 to 1000 HU."""

import numpy as np

LOWEST, HIGHEST = -1000, 1000  # HU, scaled to 0 and 1


def scale(volume: np.ndarray) -> np.ndarray:
    """Clip HU to −1000..1000 and scale to 0..1, float32."""
    scaled = clipped(volume)
    scaled -= np.float32(LOWEST)
    scaled /= np.float32(HIGHEST - LOWEST)
    return scaled


def clipped(volume: np.ndarray) -> np.ndarray:
    """Clip HU of any number type to −1000..1000 and convert to float32, in one pass that keeps the memory order."""
    clipped = np.empty_like(volume, dtype=np.float32)
    return np.clip(volume, LOWEST, HIGHEST, out=clipped, casting="unsafe")
