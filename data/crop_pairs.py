"""Preprocess one scan: write the files of its crop pairs, or its whole volume, and a record of them."""

import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from data.crops import TRIES, BoxLimits, find_limits, reachable_region
from data.pairs import CropSettings, make_pairs, missing_slices
from data.readers.volumes import load_resampled, read_header
from data.scan_records import Scan, describe_files, remove_surplus, settings_of, spec_of, write_record
from data.transforms.hounsfield import LOWEST
from utils.errors import UserError
from utils.file_group import FileGroup
from utils.seeding import numpy_generator


def load_scan(
    scan: Scan, settings: CropSettings, *, on_stored: Callable[[np.ndarray], None] | None = None
) -> tuple[np.ndarray, BoxLimits]:  # fmt: skip
    """Read the region of a scan that boxes can reach, int16 X Y Z in HU at 1 mm, and find the boxes that fit into it.

    A scan too short for any box is padded with air after its last slice until the smallest box fits. Other intensities
    and spacings: see :func:`data.readers.volumes.load_resampled`; with ``settings.volumes``, all of the scan is read.
    ``on_stored`` is given all values as stored, X Y Z.

    Raises:
        UserError: the scan is damaged or not in HU.
    """
    spec = spec_of(scan, settings)
    x, y, z = read_header(scan.source, spec).size_at(spec.spacing)
    missing = missing_slices(z)
    limits = find_limits((x, y, z + missing), settings.box_scale, settings.border)
    partly = len(limits.sizes) and not settings.volumes
    region = reachable_region(limits, (x, y, z)) if partly else None
    volume = load_resampled(scan.source, region, require_hu=True, spec=spec, on_stored=on_stored)
    if missing:
        volume = np.pad(volume, ((0, 0), (0, 0), (0, missing)), constant_values=LOWEST)
    return volume, limits


def preprocess_scan(scan: Scan, settings: CropSettings) -> dict[str, Any]:
    """Write the crops of a scan, or its volume, each file whole or not at all, then the record of them.

    The random draws depend on the seed and the scan's name alone.

    Returns:
        The record.

    Raises:
        UserError: the scan is damaged or gives no pair, or the folder cannot be written.
    """
    started, files = time.perf_counter(), describe_files(scan.source)
    volume, limits = load_scan(scan, settings)
    if limits.narrow and len(limits.sizes):
        print(
            f"{scan.listed}: small, {volume.shape} voxels of {settings.spacing:g} mm; crops keep smaller borders",
            file=sys.stderr,
        )
    group = FileGroup(scan.record_file)
    # The old record goes first, since files are a mixture of old and new crops until there is a new one. Errors are
    # ignored here: where the folder cannot be written, writing the first crop reports it.
    with contextlib.suppress(OSError):
        scan.target.mkdir(parents=True, exist_ok=True)
        scan.record_file.unlink()
    write = _write_volume if settings.volumes else _write_crops
    pairs = write(scan, volume, limits, settings, group)
    group.sync()
    if pairs == 0:
        raise _no_pair(scan, volume, limits, settings)
    remove_surplus(scan, 0 if settings.volumes else pairs)
    if not settings.volumes:
        scan.volume_file.unlink(missing_ok=True)
    record = {
        "scan": scan.listed, "folder": scan.folder, "files": files, "settings": settings_of(scan, settings),
        "pairs": pairs, "voxels": list(volume.shape), "narrow": limits.narrow,
        "seconds": round(time.perf_counter() - started, 2),
    }  # fmt: skip
    write_record(scan, record)
    return record


def _write_crops(
    scan: Scan, volume: np.ndarray, limits: BoxLimits, settings: CropSettings, group: FileGroup
) -> int:  # fmt: skip
    """Write the crops of a scan; returns the number of pairs."""
    made, rng = 0, numpy_generator(settings.seed, "crops", scan.listed)
    for pair, local in make_pairs(volume, limits, settings, rng):
        for kind, array in (("global", pair), ("local", local)):
            with group.file(scan.file(kind, made)) as file:
                np.save(file, array.astype(settings.dtype, copy=False))
        made += 1
    return made


def _write_volume(
    scan: Scan, volume: np.ndarray, limits: BoxLimits, settings: CropSettings, group: FileGroup
) -> int:  # fmt: skip
    """Write a scan's volume if a pair can be cut out of it; returns the pairs that an epoch draws, or 0."""
    if _draw_first(scan, volume, limits, settings) is None:
        return 0
    with group.file(scan.volume_file) as file:
        # x is contiguous in memory, which is fastest to cut and resize.
        np.save(file, np.asfortranarray(volume))
    return settings.pairs


def first_pair(
    scan: Scan, volume: np.ndarray, limits: BoxLimits, settings: CropSettings
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return the first crop pair that preprocessing makes of a scan, see :func:`data.pairs.make_pairs`.

    Raises:
        UserError: there is none, so that the scan fails.
    """
    pair = _draw_first(scan, volume, limits, settings)
    if pair is None:
        raise _no_pair(scan, volume, limits, settings)
    return pair


def _draw_first(
    scan: Scan, volume: np.ndarray, limits: BoxLimits, settings: CropSettings
) -> tuple[np.ndarray, np.ndarray] | None:  # fmt: skip
    rng = numpy_generator(settings.seed, "crops", scan.listed)
    return next(make_pairs(volume, limits, settings._replace(pairs=1), rng), None)


def _no_pair(scan: Scan, volume: np.ndarray, limits: BoxLimits, settings: CropSettings) -> UserError:
    if not len(limits.sizes):
        why = "no box fits in"
    elif settings.tissue is None:
        why = f"all of {TRIES} boxes hold one value only"
    else:
        why = f"no two of {TRIES} boxes have little enough tissue; give --tissue more than {settings.tissue:g}, or none"
    size = f"{volume.shape} voxels of {settings.spacing:g} mm"
    return UserError(f"{scan.source}: expected a crop pair of a scan of {size}, but {why}")
