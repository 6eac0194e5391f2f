"""Preprocess one CT scan: write the files of its crop pairs and a record of them."""

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.catalog.crop_manifest import read_json, read_record
from data.catalog.scans import list_name
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
from data.readers.file_names import stem_of
from data.readers.itk import files_of
from data.readers.volumes import load_resampled, read_header
from data.transforms.hounsfield import LOWEST
from utils.atomic import whole_file
from utils.errors import UserError
from utils.file_group import FileGroup
from utils.seeding import numpy_generator

# Incremented when the same settings would give other crops, so that scans are preprocessed again.
VERSION = 1
# Bytes. File systems allow 255; the names of temporary files are longer by the machine's name.
LONGEST_NAME = 150
FINISHED, NEW = "finished", "new"


class CropSettings(NamedTuple):
    """The settings that determine the crops of a scan."""

    shape: tuple[int, int, int]
    """Voxels of a global crop."""
    box_scale: tuple[float, float]
    """Size of the boxes relative to the published ones, in x and in y."""
    pairs: int
    seed: int
    dtype: str

    def as_dict(self) -> dict[str, Any]:
        """The settings by name, as JSON stores them."""
        return {"version": VERSION, **self._asdict(), "shape": list(self.shape), "box_scale": list(self.box_scale)}


class Scan(NamedTuple):
    """A scan to preprocess."""

    source: Path
    """The scan's file; the header where it has several."""
    target: Path
    """The folder for its crops."""
    folder: str = ""
    """The scan's folder relative to the data set's, from which :func:`data.catalog.scans.list_name` makes its name."""

    @property
    def name(self) -> str:
        """The file's name without its ending; in LUNA16 the series' UID, which contains dots."""
        return stem_of(self.source)

    @property
    def listed(self) -> str:
        """The scan's name in lists."""
        return list_name(self.folder, self.name)

    def file(self, kind: str, number: int) -> Path:
        """Path of the crops of pair ``number``; ``kind`` is ``global`` (2 X Y Z) or ``local`` (6 16 16 16)."""
        return self.target / f"{self.name}_{kind}_{number}.npy"

    @property
    def record_file(self) -> Path:
        """Path of the scan's record: its crops and their settings, or why it failed.

        A long name is replaced by a digest, so that a failure can be recorded even where the crops' names are too long
        for the file system.
        """
        encoded = os.fsencode(self.name)
        short = len(encoded) <= LONGEST_NAME
        return self.target / f"{self.name if short else hashlib.blake2b(encoded, digest_size=12).hexdigest()}.json"


def load_scan(scan: Scan, settings: CropSettings) -> tuple[np.ndarray, BoxLimits]:
    """Read the region of a scan that boxes can reach, int16 X Y Z in HU at 1 mm, and find the boxes that fit into it.

    A scan too short for any box is padded with air after its last slice until the smallest box fits.

    Raises:
        UserError: the scan is damaged or not in HU.
    """
    x, y, z = read_header(scan.source).size_resampled
    missing = max(0, int(GLOBAL_SIZES[:, 2].min()) + EXTRA_SLICES - z)
    limits = find_limits((x, y, z + missing), settings.box_scale)
    region = reachable_region(limits, (x, y, z)) if len(limits.sizes) else None
    volume = load_resampled(scan.source, region, require_hu=True)
    if missing:
        volume = np.pad(volume, ((0, 0), (0, 0), (0, missing)), constant_values=LOWEST)
    return volume, limits


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
            first = cut_global(volume, boxes[0], settings.shape)
            second = None if first is None else cut_global(volume, boxes[1], settings.shape)
            if first is not None and second is not None:
                local = [cut(volume, box, LOCAL_SHAPE) for box in draw_locals(boxes, volume.shape, rng)]
                yield np.stack([first, second]), np.stack(local)
                made, tries = made + 1, 0


def preprocess_scan(scan: Scan, settings: CropSettings) -> dict[str, Any]:
    """Write the crops of a scan, each file whole or not at all, then the record of them.

    The random draws depend on the seed and the scan's name alone.

    Returns:
        The record.

    Raises:
        UserError: the scan is damaged or gives no pair, or the folder cannot be written.
    """
    started, files = time.perf_counter(), describe_files(scan.source)
    volume, limits = load_scan(scan, settings)
    if limits.narrow and len(limits.sizes):
        print(f"{scan.listed}: small, {volume.shape} voxels of 1 mm; crops keep smaller borders", file=sys.stderr)
    rng = numpy_generator(settings.seed, "crops", scan.listed)
    made, group = 0, FileGroup(scan.record_file)
    # The old record goes first, since files are a mixture of old and new crops until there is a new one. Errors are
    # ignored here: where the folder cannot be written, writing the first crop reports it.
    with contextlib.suppress(OSError):
        scan.target.mkdir(parents=True, exist_ok=True)
        scan.record_file.unlink()
    for pair, local in make_pairs(volume, limits, settings, rng):
        for kind, array in (("global", pair), ("local", local)):
            with group.file(scan.file(kind, made)) as file:
                np.save(file, array.astype(settings.dtype, copy=False))
        made += 1
    group.sync()
    if made == 0:
        why = f"no two of {TRIES} boxes have little enough tissue" if len(limits.sizes) else "no box fits in"
        raise UserError(f"{scan.source}: expected a crop pair of a scan of {volume.shape} voxels of 1 mm, but {why}")
    remove_surplus(scan, made)
    record = {
        "scan": scan.listed, "folder": scan.folder, "files": files, "settings": settings.as_dict(), "pairs": made,
        "voxels": list(volume.shape), "narrow": limits.narrow, "seconds": round(time.perf_counter() - started, 2),
    }  # fmt: skip
    write_record(scan, record)
    return record


def describe_files(source: Path) -> dict[str, list[int]]:
    """Size in bytes and modification time in ns of a scan's files, by name, to detect that the scan has changed.

    Their folder is left out, so that a data set may be moved, or copied with its times (``cp -a``, ``rsync -a``),
    together with its crops. A copy with new times counts as changed.

    Raises:
        UserError: a file is missing, or the header is damaged.
    """
    files = {}
    for path in files_of(source):
        try:
            status = path.stat()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from None
        files[path.name] = [status.st_size, status.st_mtime_ns]
    return files


def remove_surplus(scan: Scan, pairs: int) -> None:
    """Remove pairs of an earlier run from number ``pairs`` on, as a larger ``--scale`` leaves them."""
    while scan.file("global", pairs).exists() or scan.file("local", pairs).exists():
        for kind in ("global", "local"):
            scan.file(kind, pairs).unlink(missing_ok=True)
        pairs += 1


def record_failure(scan: Scan, settings: CropSettings, reason: str) -> None:
    """Record why a scan gave no crops, and remove crops of an earlier version of its file.

    Raises:
        UserError: the record cannot be written.
    """
    # Names that are too long for the file system cannot exist.
    with contextlib.suppress(OSError):
        scan.target.mkdir(parents=True, exist_ok=True)
        remove_surplus(scan, 0)
    write_record(scan, {"scan": scan.listed, "settings": settings.as_dict(), "pairs": 0, "failure": reason})


def write_record(scan: Scan, record: dict[str, Any]) -> None:
    """Write the record of a scan."""
    with whole_file(scan.record_file, "w") as file:
        json.dump(record, file, indent=1)


def state_of(scan: Scan, settings: CropSettings) -> str:
    """The state of a scan: ``FINISHED``, ``NEW``, or why it must be preprocessed again, to follow "4 scans ...".

    Raises:
        UserError: a file of another program has the name of the scan's record.
    """
    record = read_record(scan.record_file)
    if record is None:
        return _state_without_record(scan)
    if "failure" in record:
        return "failed before and are tried again"
    if record["settings"] != settings.as_dict():
        return "have crops of other settings"
    if not all(scan.file(kind, i).exists() for kind in ("global", "local") for i in range(record["pairs"])):
        return "lack some of their crops"
    return FINISHED if _unchanged(scan, record) else "changed since their crops were made"


def _state_without_record(scan: Scan) -> str:
    if read_json(scan.record_file) is not None:
        raise UserError(
            f"--save: expected a folder for crops, {scan.record_file} is another program's file, which the "
            f"record of {scan.source} would replace; give another folder"
        )
    try:
        has_crops = scan.file("global", 0).exists()
    except OSError:  # the name is too long
        has_crops = False
    return "have crops without a record of how they were made" if has_crops else NEW


def _unchanged(scan: Scan, record: dict[str, Any]) -> bool:
    """Whether the scan's files are those of the record; older records have no sizes and times, only their own time."""
    try:
        now = describe_files(scan.source)
        if "files" in record:
            return bool(record["files"] == now)
        return max(time for _, time in now.values()) <= scan.record_file.stat().st_mtime_ns
    except (UserError, OSError):  # preprocessing the scan again reports the error
        return False
