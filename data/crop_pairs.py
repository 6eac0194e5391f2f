"""One CT scan to the files of its crop pairs."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.crops import (
    EXTRA_SLICES,
    GLOBAL_SIZES,
    LOCAL_SHAPE,
    TRIES,
    BoxLimits,
    cut,
    cut_global,
    draw_locals,
    draw_pairs,
    find_limits,
    reachable_region,
)
from data.readers.volumes import load_resampled, read_header
from data.transforms.hounsfield import LOWEST
from utils.atomic import whole_file
from utils.errors import UserError
from utils.file_group import FileGroup
from utils.seeding import numpy_generator

# Changed when the same settings would give other crops, so that old ones are made anew.
VERSION = 1


class CropSettings(NamedTuple):
    """What decides which crops a scan gives."""

    shape: tuple[int, int, int]
    """Voxels of a global crop."""
    box_scale: tuple[float, float]
    """By how much boxes are larger than published, in x and in y."""
    pairs: int
    seed: int
    dtype: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name, as JSON gives them back."""
        return {"version": VERSION, **self._asdict(), "shape": list(self.shape), "box_scale": list(self.box_scale)}


class Scan(NamedTuple):
    """A scan to preprocess."""

    source: Path
    """The ``.mhd`` file."""
    target: Path
    """The folder of its crops."""

    @property
    def name(self) -> str:
        """The file's name without ``.mhd``; in LUNA16 the series' UID, which is full of dots."""
        return self.source.name.removesuffix(".mhd")

    def file(self, kind: str, number: int) -> Path:
        """``global``: 2 X Y Z, or ``local``: 6 16 16 16."""
        return self.target / f"{self.name}_{kind}_{number}.npy"

    @property
    def record_file(self) -> Path:
        """What was made of this scan, and with which settings."""
        return self.target / f"{self.name}.json"


def load_scan(scan: Scan, settings: CropSettings) -> tuple[np.ndarray, BoxLimits]:
    """What boxes may hold of a scan, int16 X Y Z in HU at 1 mm, and the boxes that it has room for.

    A scan that is too short for any box gets air behind its last slice, so that the smallest fits.

    Raises:
        UserError: the scan is damaged.
    """
    x, y, z = read_header(scan.source).size_resampled
    missing = max(0, int(GLOBAL_SIZES[:, 2].min()) + EXTRA_SLICES - z)
    room = find_limits((x, y, z + missing), settings.box_scale)
    volume = load_resampled(scan.source, reachable_region(room, (x, y, z)) if len(room.sizes) else None)
    if missing:
        volume = np.pad(volume, ((0, 0), (0, 0), (0, missing)), constant_values=LOWEST)
    return volume, room


def make_pairs(
    volume: np.ndarray, room: BoxLimits, settings: CropSettings, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draw and cut crop pairs.

    Args:
        volume: int16 X Y Z, HU at 1 mm.
        room: the boxes that it has room for.
        settings: how many, and of which size.
        rng: what they are drawn from.

    Yields:
        (pair float32 2 *shape, local crops float32 6 16 16 16), all in 0..1; fewer than ``settings.pairs`` where some
        hundred tries in a row give none.
    """
    made = tries = 0
    while len(room.sizes) and tries < TRIES:
        tries += 1
        for boxes in draw_pairs(room, rng):
            if made == settings.pairs or tries == TRIES:
                return
            tries += 1
            first = cut_global(volume, boxes[0], settings.shape)
            second = None if first is None else cut_global(volume, boxes[1], settings.shape)
            if first is not None and second is not None:
                local = [cut(volume, box, LOCAL_SHAPE) for box in draw_locals(boxes, volume.shape, rng)]
                yield np.stack([first, second]), np.stack(local)
                made, tries = made + 1, 0


def preprocess_scan(scan: Scan, settings: CropSettings) -> dict[str, Any]:
    """Write the crops of a scan, each file whole or not at all, then the record that says that they are there.

    What is drawn depends on the seed and the scan's name alone.

    Returns:
        the record.

    Raises:
        UserError: the scan is damaged, gives no pair, or the folder cannot be written.
    """
    started = time.perf_counter()
    volume, room = load_scan(scan, settings)
    if room.narrow and len(room.sizes):
        print(f"{scan.name}: small, {volume.shape} voxels of 1 mm; borders shrink to what it allows", file=sys.stderr)
    rng = numpy_generator(settings.seed, "crops", scan.name)
    made, group = 0, FileGroup(scan.record_file)
    # Until there is a new record, the files are a mixture of old and new crops. A record that cannot be removed is in a
    # folder that cannot be written, which the first crop tells.
    with contextlib.suppress(OSError):
        scan.record_file.unlink()
    for pair, local in make_pairs(volume, room, settings, rng):
        for kind, array in (("global", pair), ("local", local)):
            with group.file(scan.file(kind, made)) as file:
                np.save(file, array.astype(settings.dtype, copy=False))
        made += 1
    group.sync()
    if made == 0:
        why = f"no two of {TRIES} boxes have little enough tissue" if len(room.sizes) else "no box fits in"
        raise UserError(f"{scan.source}: expected a crop pair of a scan of {volume.shape} voxels of 1 mm, but {why}")
    remove_surplus(scan, made)
    record = {
        "scan": scan.name, "folder": scan.target.name, "settings": settings.as_dict(), "pairs": made,
        "voxels": list(volume.shape), "narrow": room.narrow, "seconds": round(time.perf_counter() - started, 2),
    }  # fmt: skip
    write_record(scan, record)
    return record


def remove_surplus(scan: Scan, pairs: int) -> None:
    """Remove the pairs that an earlier run with a larger ``--scale`` left."""
    while scan.file("global", pairs).exists() or scan.file("local", pairs).exists():
        for kind in ("global", "local"):
            scan.file(kind, pairs).unlink(missing_ok=True)
        pairs += 1


def write_record(scan: Scan, record: dict[str, Any]) -> None:
    """Keep what was made of a scan, or why nothing was."""
    with whole_file(scan.record_file, "w") as file:
        json.dump(record, file, indent=1)


def read_record(path: Path) -> dict[str, Any] | None:
    """The record of a scan, or None where there is none, or none that is whole."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and {"scan", "settings"} <= record.keys() else None


def is_finished(scan: Scan, settings: CropSettings) -> bool:
    """Whether all crops of a scan are there, made with the same settings."""
    record = read_record(scan.record_file)
    if record is None or record["settings"] != settings.as_dict() or not record.get("pairs"):
        return False
    return all(scan.file(kind, i).exists() for kind in ("global", "local") for i in range(record["pairs"]))
