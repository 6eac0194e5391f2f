"""One CT scan to the files of its crop pairs."""

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

# Changed when the same settings would give other crops, so that old ones are made anew.
VERSION = 1
# Bytes. File systems allow 255, of which a temporary file spends some on the machine's name.
LONGEST_NAME = 150
FINISHED, NEW = "finished", "new"


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
    """Its file; of several, the header."""
    target: Path
    """The folder of its crops."""
    folder: str = ""
    """The scan's, relative to the data set's: :func:`data.catalog.scans.list_name` makes its name of it."""

    @property
    def name(self) -> str:
        """The file's name without its ending; in LUNA16 the series' UID, which is full of dots."""
        return stem_of(self.source)

    @property
    def listed(self) -> str:
        """What lists call it."""
        return list_name(self.folder, self.name)

    def file(self, kind: str, number: int) -> Path:
        """``global``: 2 X Y Z, or ``local``: 6 16 16 16."""
        return self.target / f"{self.name}_{kind}_{number}.npy"

    @property
    def record_file(self) -> Path:
        """What was made of this scan, and with which settings.

        A digest stands for a long name: the record of a scan whose crops' names are too long for the file system must
        not be too long as well.
        """
        encoded = os.fsencode(self.name)
        short = len(encoded) <= LONGEST_NAME
        return self.target / f"{self.name if short else hashlib.blake2b(encoded, digest_size=12).hexdigest()}.json"


def load_scan(scan: Scan, settings: CropSettings) -> tuple[np.ndarray, BoxLimits]:
    """What boxes may hold of a scan, int16 X Y Z in HU at 1 mm, and the boxes that it has room for.

    A scan that is too short for any box gets air behind its last slice, so that the smallest fits.

    Raises:
        UserError: the scan is damaged, or not in HU.
    """
    x, y, z = read_header(scan.source).size_resampled
    missing = max(0, int(GLOBAL_SIZES[:, 2].min()) + EXTRA_SLICES - z)
    room = find_limits((x, y, z + missing), settings.box_scale)
    needed = reachable_region(room, (x, y, z)) if len(room.sizes) else None
    volume = load_resampled(scan.source, needed, require_hu=True)
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
    started, files = time.perf_counter(), describe_files(scan.source)
    volume, room = load_scan(scan, settings)
    if room.narrow and len(room.sizes):
        print(f"{scan.listed}: small, {volume.shape} voxels of 1 mm; borders shrink to what it allows", file=sys.stderr)
    rng = numpy_generator(settings.seed, "crops", scan.listed)
    made, group = 0, FileGroup(scan.record_file)
    # Until there is a new record, the files are a mixture of old and new crops. A folder that cannot be made, or
    # a record that cannot be removed, is told by the first crop, which cannot be written either.
    with contextlib.suppress(OSError):
        scan.target.mkdir(parents=True, exist_ok=True)
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
        "scan": scan.listed, "folder": scan.folder, "files": files, "settings": settings.as_dict(), "pairs": made,
        "voxels": list(volume.shape), "narrow": room.narrow, "seconds": round(time.perf_counter() - started, 2),
    }  # fmt: skip
    write_record(scan, record)
    return record


def describe_files(source: Path) -> dict[str, list[int]]:
    """What tells whether a scan has changed: size and modification time of its files, in bytes and ns, by name.

    Not their folder: a data set may be moved, or copied with its times (``cp -a``, ``rsync -a``), together with its
    crops. One copied without them counts as changed.

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
    """Remove the pairs that an earlier run with a larger ``--scale`` left."""
    while scan.file("global", pairs).exists() or scan.file("local", pairs).exists():
        for kind in ("global", "local"):
            scan.file(kind, pairs).unlink(missing_ok=True)
        pairs += 1


def record_failure(scan: Scan, settings: CropSettings, reason: str) -> None:
    """Keep why a scan gave no crops, and remove those of what its file held before.

    Raises:
        UserError: the record cannot be written.
    """
    # Names that the file system does not take were never there.
    with contextlib.suppress(OSError):
        scan.target.mkdir(parents=True, exist_ok=True)
        remove_surplus(scan, 0)
    write_record(scan, {"scan": scan.listed, "settings": settings.as_dict(), "pairs": 0, "failure": reason})


def write_record(scan: Scan, record: dict[str, Any]) -> None:
    """Keep what was made of a scan, or why nothing was."""
    with whole_file(scan.record_file, "w") as file:
        json.dump(record, file, indent=1)


def state_of(scan: Scan, settings: CropSettings) -> str:
    """How far a scan is: ``FINISHED``, ``NEW``, or why it is to be preprocessed anew, as what follows "4 scans ...".

    Raises:
        UserError: a file that is none of ours has the name of the scan's record.
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
            f"--save: expected a folder for crops, {scan.record_file} is another program's, and the record of "
            f"{scan.source} would replace it; give another folder"
        )
    try:
        there = scan.file("global", 0).exists()
    except OSError:  # too long a name
        there = False
    return "have crops without a record of how they were made" if there else NEW


def _unchanged(scan: Scan, record: dict[str, Any]) -> bool:
    """An older version of this program kept no sizes and times: files are not to be younger than its record then."""
    try:
        now = describe_files(scan.source)
        if "files" in record:
            return bool(record["files"] == now)
        return max(time for _, time in now.values()) <= scan.record_file.stat().st_mtime_ns
    except (UserError, OSError):  # preprocessing it says what is wrong
        return False
