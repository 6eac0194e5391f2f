"""Cut crop pairs for 3D pre-training out of volumes: LUNA16's scans, or one's own CT, MRI or PET."""

import argparse
import errno
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from data.catalog.crop_manifest import MANIFEST, write_manifest
from data.catalog.file_index import require_folder
from data.catalog.joins import first_names
from data.catalog.scans import subset_of
from data.catalog.volumes import find_volumes
from data.crop_options import parse_arguments, settings_of_options
from data.crop_pairs import preprocess_scan
from data.pairs import CropSettings
from data.readers.file_names import SCANS
from data.scan_records import FINISHED, NEW, Scan, record_failure, state_of
from utils.errors import UserError, run_command
from utils.notes import kept_notes
from utils.process_pool import run_jobs
from utils.progress import progress, say
from utils.world import World, read_world

# One thread per worker, since scans are distributed over processes; workers' numerical libraries read this.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Errors that concern the disk and not one scan: it is full, over quota, or read-only.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def choose_scans(
    root: Path, save: Path, fold: int | None, *, exclude: Sequence[str] = (), verbose: bool
) -> tuple[list[Scan], list[str]]:  # fmt: skip
    """Find the scans to preprocess, in order of their paths, and write a line for each that cannot be read as it is.

    Raises:
        UserError: no such folder, no scans in it, or two scans with the same name.
    """
    volumes, refused = find_volumes(require_folder(root), exclude=exclude, verbose=verbose)
    scans = [Scan(volume.source, save / volume.folder, volume.folder, volume.name) for volume in volumes]
    if not scans and not refused:
        raise UserError(
            f"--data: expected subset*/*.mhd, or other volumes ({', '.join(SCANS)}, DICOM), in {root}, found none"
        )
    wanted = [scan for scan in scans if fold is None or subset_of(scan.folder) == fold]
    if fold is not None and not wanted:
        raise UserError(
            f"--fold: expected scans in subset{fold}, such as subset{fold}/*.mhd, in {root}, it has {len(scans)} "
            "elsewhere; without --fold all are taken"
        )
    require_own_records(wanted, save)
    return wanted, refused


def require_own_records(scans: Sequence[Scan], save: Path) -> None:
    """Require that each scan has a record of its own.

    Raises:
        UserError: two scans have the same name, or one's record would replace the manifest.
    """
    seen: dict[str, Scan] = {}
    for scan in scans:
        if scan.record_file == save / MANIFEST:
            raise UserError(f"{scan.source}: expected another name, since the record of its crops would be {MANIFEST}")
        if (other := seen.setdefault(scan.listed, scan)) is not scan:
            raise UserError(f"--data: expected each name once, {other.source} and {scan.source} are both {scan.listed}")


def prepare_folder(save: Path) -> None:
    """Create the folder of the crops.

    Raises:
        UserError: it cannot be created.
    """
    try:
        save.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--save: cannot make {save}: {error.strerror or error}") from error


class DiskFailure(UserError):
    """The folder of the crops cannot be written, whichever scan is preprocessed."""


def preprocess_one(settings: CropSettings, scan: Scan) -> dict[str, Any]:
    """Preprocess one scan in a worker process; returns its record.

    Raises:
        DiskFailure: the disk cannot be written, so that the run must stop.
        UserError: the scan failed for any other reason.
    """
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        return preprocess_scan(scan, settings)
    except UserError as error:
        if _is_disk_failure(error):
            raise DiskFailure(str(error)) from error
        raise
    except Exception as error:  # a damaged file can raise any error, and the other scans must still be preprocessed
        raise UserError(f"{scan.source}: {type(error).__name__}: {error}") from error


def _is_disk_failure(error: UserError) -> bool:
    # NumPy's error for an incomplete write has no errno.
    cause = error.__cause__
    return isinstance(cause, OSError) and (cause.errno is None or cause.errno in DISK_ERRORS)


def preprocess_all(scans: Sequence[Scan], settings: CropSettings, *, workers: int, world: World) -> dict[str, str]:
    """Preprocess the scans that are not finished; returns the reason of each failure by the scan's name.

    Raises:
        UserError: the folder of the crops cannot be written, or holds files of another program.
    """
    todo = unfinished(scans, settings)
    failures: dict[str, str] = {}
    jobs = run_jobs(partial(preprocess_one, settings), todo, workers=min(workers, max(1, len(todo))))
    for scan, result in progress(jobs, name=f"process {world.rank}", unit="scan", total=len(todo)):
        if isinstance(result, DiskFailure):
            raise result
        if isinstance(result, UserError):
            reason = " ".join(str(result).splitlines())
            failures[scan.listed] = reason if str(scan.source) in reason else f"{scan.source}: {reason}"
            try:
                record_failure(scan, settings, failures[scan.listed])
            except UserError as error:
                if _is_disk_failure(error):
                    raise
    return failures


def unfinished(scans: Sequence[Scan], settings: CropSettings) -> list[Scan]:
    """The scans that are not finished; prints why scans that have crops already are preprocessed again."""
    by_state: dict[str, list[Scan]] = {}
    for scan in scans:
        by_state.setdefault(state_of(scan, settings), []).append(scan)
    for state, some in by_state.items():
        if state == FINISHED:
            say(f"{len(some)} of {len(scans)} scans are finished already")
        elif state != NEW:
            names = first_names([scan.listed for scan in some])
            say(f"preprocessed again: {len(some)} of {len(scans)} scans {state} ({names})")
    finished = set(by_state.get(FINISHED, []))
    return [scan for scan in scans if scan not in finished]


def conclude(
    manifest: dict[str, Any], scans: Sequence[Scan], unreadable: Sequence[str], *, save: Path, max_bad: float
) -> int:
    """Print the results of the run; returns the exit status.

    Args:
        manifest: the records of all processes so far.
        scans: the scans of this run, over all processes.
        unreadable: a line for each folder that could not be read.
        save: the folder of the crops.
        max_bad: share of scans that may fail, at least one unless it is 0.
    """
    names = {scan.listed for scan in scans}
    failed = [*(reason for name, reason in manifest["failures"].items() if name in names), *unreadable]
    for reason in failed:
        say(f"failed: {reason}")
    allowed = allowed_failures(len(scans), max_bad)
    in_an_epoch = " in an epoch" * any(record["settings"].get("volumes", False) for record in manifest["records"])
    pairs = f"{manifest['pairs']} pairs{in_an_epoch}"
    text = f"{pairs} of {manifest['scans']} scans, {manifest['bytes'] / 1e6:.0f} MB in {save}"
    if not failed:
        say(text)
        return 0
    all_empty = not any(record["pairs"] for record in manifest["records"] if record["scan"] in names)
    text += f"; {len(failed)} scans failed, see {MANIFEST}: "
    if len(failed) > allowed or (all_empty and len(failed) >= len(scans)):
        say(text + f"--max_bad {max_bad:g} allows {allowed} of {len(scans)}" + ", and one must give crops" * all_empty)
        return 1
    say(text + f"--max_bad {max_bad:g} allows {allowed} of {len(scans)}; pre-training leaves them out")
    return 0


def allowed_failures(scans: int, max_bad: float) -> int:
    """How many of the scans may fail: a share of them, but at least one unless it is 0."""
    return max(1, int(max_bad * scans)) if max_bad else 0


def note_others(manifest: dict[str, Any], scans: Sequence[Scan], save: Path) -> None:
    """Print which scans have crops in the folder but are not in the data."""
    names = {scan.listed for scan in scans}
    others = [record["scan"] for record in manifest["records"] if record["scan"] not in names and record["pairs"]]
    if others:
        say(f"{save} also has crops of {len(others)} scans that are not in --data ({first_names(others)})")


def check(options: argparse.Namespace) -> int:
    """Read every scan once, and write nothing but a table and a contact sheet; 1 if preprocessing would fail."""
    # Imported here, so that preprocessing needs nothing of it.
    from checks.report import fail
    from checks.volumes import check_volumes

    save = Path(options.save)
    with kept_notes() as notes:
        try:
            scans, unreadable = choose_scans(
                Path(options.data), save, options.fold, exclude=options.exclude, verbose=True
            )  # fmt: skip
        except UserError as error:
            return fail(save, notes, str(error))
    return check_volumes(
        scans, settings_of_options(options), unreadable, notes, save=save, workers=options.workers,
        allowed=allowed_failures(len(scans), options.max_bad),
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Scans -> crop pairs -> manifest; status 1 when more scans failed than allowed, or no scan gave crops."""
    options = parse_arguments(arguments)
    world = read_world()
    if options.check:
        return check(options) if world.is_main else 0
    settings = settings_of_options(options)
    save = Path(options.save)
    scans, unreadable = choose_scans(
        Path(options.data), save, options.fold, exclude=options.exclude, verbose=world.is_main
    )  # fmt: skip
    prepare_folder(save)
    failures = preprocess_all(scans[world.rank :: world.size], settings, workers=options.workers, world=world)
    manifest = write_manifest(save, failures)
    if options.fold is None:
        note_others(manifest, scans, save)
    return conclude(manifest, scans, unreadable, save=save, max_bad=options.max_bad)


if __name__ == "__main__":
    run_command(main)
