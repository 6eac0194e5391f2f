"""Which values of a 2D image become black and white."""

from collections.abc import Callable

import numpy as np

# Chest X-rays have up to some 10 million pixels; a damaged header may claim more than the memory holds.
LARGEST_PIXELS = 200_000_000
FROM_FILE, PERCENTILES, MINMAX = INTENSITIES = ("file", "percentiles", "minmax")
"""``file``: as the file says; else from the image's own values."""
SHARE = (0.5, 99.5)
"""Percentiles that become black and white: outside are markers, collimator edges and dead pixels."""


LARGEST_RANGE = 1 << 16
"""Integers of at most this range are counted or looked up by value, which is many times as fast for large images."""


def limits_of(values: np.ndarray, intensity: str) -> tuple[float, float]:
    """Return the values that become black and white, by the percentiles of SHARE or the least and largest value.

    Percentiles that are one value, as in an image that is nearly all background, are replaced by least and largest.
    """
    if intensity != MINMAX:
        low, high = _percentiles(values)
        if high > low:
            return low, high
    return float(values.min()), float(values.max())


def to_grey(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Scale values to uint8, ``low`` and below to 0, ``high`` and above to 255; all 0 where both are the same."""
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    return rounded_by_value(lambda x: ((x - low) * (255 / (high - low))).clip(0, 255), values)


def rounded_by_value(function: Callable[[np.ndarray], np.ndarray], values: np.ndarray) -> np.ndarray:
    """Return a function of each value, given as float64, rounded to uint8."""
    if values.dtype.kind == "f" or (span := _span(values)) > LARGEST_RANGE:
        return np.rint(function(values.astype(np.float64))).astype(np.uint8)
    table = np.rint(function(np.arange(span) + float(values.min()))).astype(np.uint8)
    return table[_from_least(values)]


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    """Return those of SHARE, interpolated as by NumPy."""
    if values.dtype.kind == "f" or _span(values) > LARGEST_RANGE:
        low, high = np.percentile(values, SHARE)
    else:
        reached = np.cumsum(np.bincount(_from_least(values).ravel()))
        place = np.array(SHARE) / 100 * (values.size - 1)
        below, above = (np.searchsorted(reached, ranks(place), side="right") for ranks in (np.floor, np.ceil))
        low, high = below + (above - below) * (place % 1) + float(values.min())
    return float(low), float(high)


def _span(values: np.ndarray) -> int:
    return int(values.max()) - int(values.min()) + 1


def _from_least(values: np.ndarray) -> np.ndarray:
    """Return how far integers are above the least of them, int32."""
    return np.subtract(values, values.min(), dtype=np.int32, casting="unsafe")
