"""Draw crop pairs of one volume, and the settings on which they depend."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from data.crops import (
    BORDER,
    EXTRA_SLICES,
    GLOBAL_SIZES,
    LOCAL_SHAPE,
    MAX_TISSUE,
    TRIES,
    BoxLimits,
    cut,
    cut_global,
    draw_locals,
    draw_pairs,
)

# Incremented when the same settings would give other crops, so that scans are preprocessed again.
VERSION = 1


class CropSettings(NamedTuple):
    """The settings that determine the crops of a scan."""

    shape: tuple[int, int, int]
    """Voxels of a global crop."""
    box_scale: tuple[float, float]
    """Size of the boxes relative to the published ones, in x and in y."""
    pairs: int
    seed: int
    dtype: str
    intensity: str = "ct"
    """One of :data:`data.readers.volumes.INTENSITIES`."""
    spacing: float = 1.0
    """mm of a voxel."""
    tissue: float | None = MAX_TISSUE
    """Share of a box that may be tissue; None for any."""
    border: tuple[int, ...] = tuple(BORDER.tolist())
    """Voxels kept between boxes and the border of the scan, where it has room."""
    volumes: bool = False
    """Whether whole volumes are kept instead of crops."""

    def as_dict(self) -> dict[str, Any]:
        """The settings by name, as JSON stores them; those that others than LUNA16 need only where they are typed."""
        published = self._field_defaults
        typed = {name: value for name, value in self._asdict().items() if value != published.get(name, ())}
        lists = {name: list(value) if isinstance(value, tuple) else value for name, value in typed.items()}
        return {"version": VERSION, **lists}

    @classmethod
    def from_record(cls, stored: dict[str, Any]) -> "CropSettings":
        """The settings in a scan's record, as :meth:`as_dict` made them."""
        found = {name: stored[name] for name in cls._fields if name in stored}
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in found.items()}
        return cls(**values)


def missing_slices(depth: int) -> int:
    """Return how many slices a scan of ``depth`` lacks for the smallest box; they are added after its last one."""
    return max(0, int(GLOBAL_SIZES[:, 2].min()) + EXTRA_SLICES - depth)


def make_pairs(
    volume: np.ndarray, limits: BoxLimits, settings: CropSettings, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draw and cut crop pairs.

    Args:
        volume: int16 X Y Z, HU at 1 mm.
        limits: the boxes that fit into it.
        settings: number and size of the pairs.
        rng: the source of all random draws.

    Yields:
        (pair float32 2 *shape, local crops float32 6 16 16 16), all in 0..1; fewer than ``settings.pairs`` when
        ``TRIES`` tries in a row fail.
    """
    made = tries = 0
    while len(limits.sizes) and tries < TRIES:
        tries += 1
        for boxes in draw_pairs(limits, rng):
            if made == settings.pairs or tries == TRIES:
                return
            tries += 1
            crops = _cut_pair(volume, boxes, settings)
            if crops is not None:
                local = [cut(volume, box, LOCAL_SHAPE) for box in draw_locals(boxes, volume.shape, rng)]
                yield np.stack(crops), np.stack(local)
                made, tries = made + 1, 0


def _cut_pair(volume: np.ndarray, boxes: np.ndarray, settings: CropSettings) -> list[np.ndarray] | None:
    """Cut both boxes of a pair, or return None where one has too much tissue.

    The smaller box is cut first: it may have less tissue, so that most pairs are rejected without cutting the other.
    """
    order = np.argsort((boxes[:, 1::2] - boxes[:, ::2]).prod(axis=1), kind="stable")
    crops: dict[int, np.ndarray] = {}
    for which in order.tolist():
        crop = cut_global(volume, boxes[which], settings.shape, settings.tissue)
        if crop is None:
            return None
        crops[which] = crop
    return [crops[0], crops[1]]
