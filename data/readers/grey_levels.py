"""Which values of a 2D image become black and white."""

import numpy as np

# Chest X-rays have up to some 10 million pixels; a damaged header may claim more than the memory holds.
LARGEST_PIXELS = 200_000_000
FROM_FILE, PERCENTILES, MINMAX = INTENSITIES = ("file", "percentiles", "minmax")
"""``file``: as the file says; else from the image's own values."""
SHARE = (0.5, 99.5)
"""Percentiles that become black and white: outside are markers, collimator edges and dead pixels."""


def limits_of(values: np.ndarray, intensity: str) -> tuple[float, float]:
    """Return the values that become black and white, by the percentiles of SHARE or the least and largest value.

    Percentiles that are one value, as in an image that is nearly all background, are replaced by least and largest.
    """
    if intensity != MINMAX:
        low, high = (float(value) for value in np.percentile(values, SHARE))
        if high > low:
            return low, high
    return float(values.min()), float(values.max())


def to_grey(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Scale values to uint8, ``low`` and below to 0, ``high`` and above to 255; all 0 where both are the same."""
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    scaled = (values.astype(np.float64) - low) * (255 / (high - low))
    return np.rint(scaled.clip(0, 255)).astype(np.uint8)
