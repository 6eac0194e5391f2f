"""Cut crop pairs for 3D pre-training out of CT scans: LUNA16's, or one's own."""

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
from data.catalog.scans import find_scans, subset_of
from data.crop_pairs import (
    FINISHED,
    NEW,
    CropSettings,
    Scan,
    preprocess_scan,
    record_failure,
    state_of,
)
from data.readers.volumes import SCANS
from utils.arguments import OneLineParser, nearest_multiples, number
from utils.arguments import path as path_type
from utils.cores import available_cores
from utils.errors import UserError, run_command
from utils.process_pool import run_jobs
from utils.progress import progress, say
from utils.world import World, read_world

# One thread per worker, since scans are distributed over processes; workers' numerical libraries read this.
os.environ.setdefault("OMP_NUM_THREADS", "1")

PUBLISHED_SIDE = 64  # voxels of a published crop in x and y; the published box sizes are for this size
# The network halves each side of a crop three times.
DIVISOR = 8
# Errors that concern the disk and not one scan: it is full, over quota, or read-only.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the options; a wrong one ends the program with one line and status 2."""
    parser = OneLineParser(
        prog="luna_preprocess.py",
        description="Cut crop pairs for 3D pre-training out of LUNA16's scans, DATA/subset*/*.mhd, or of the CT scans "
        f"({', '.join(SCANS)}) in any other folders. Finished scans are skipped, so that a stopped run "
        "resumes. Under torchrun, the scans are distributed over several machines.",
    )  # fmt: skip
    whole, size = number(int, 1, 10**6), number(int, DIVISOR, 4096)
    parser.add_argument(
        "--data", type=path_type, required=True, help="folder of subset0 ... subset9, or of other scans"
    )
    parser.add_argument("--save", type=path_type, required=True, help="folder for the crops")
    parser.add_argument("--fold", type=number(int, 0, 9), help="preprocess one subset only; unset: all")
    parser.add_argument("--scale", type=whole, default=16, help="crop pairs per scan")
    for name, default in (("rows", 64), ("cols", 64), ("deps", 32)):
        parser.add_argument(f"--input_{name}", type=size, default=default, help="voxels of a global crop")
    for name in ("rows", "cols"):
        help_text = f"mm of the smallest box that is cut; the other boxes are scaled in proportion ({name})"
        parser.add_argument(f"--crop_{name}", type=size, default=PUBLISHED_SIDE, help=help_text)
    parser.add_argument(
        "--workers", type=whole, default=available_cores(), help="processes, about 1 GB each; unset: one per core"
    )
    parser.add_argument(
        "--max_bad", type=number(float, 0, 1), default=0.01,
        help="share of scans that may fail, at least one scan; 0: none may",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=number(int, 0, 2**62), default=42, help="seed of all random draws, together with the scan's name"
    )
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32", help="float16 halves the disk")
    options = parser.parse_args(arguments)
    for name in ("input_rows", "input_cols", "input_deps"):
        if (side := getattr(options, name)) % DIVISOR:
            nearest = nearest_multiples(side, DIVISOR)
            parser.error(f"--{name}: expected a multiple of {DIVISOR}, got {side}; give {nearest}")
    return options


def choose_scans(root: Path, save: Path, fold: int | None, *, verbose: bool) -> tuple[list[Scan], list[str]]:
    """Find the scans to preprocess, in order of their paths, and write a line for each folder that cannot be read.

    Raises:
        UserError: no such folder, no scans in it, or two scans with the same name.
    """
    found = find_scans(require_folder(root), verbose=verbose)
    if not found.scans and not found.unreadable:
        raise UserError(
            f"--data: expected subset*/*.mhd, or other CT scans ({', '.join(SCANS)}), in {root}, found none; convert "
            "DICOM series to .nii.gz first"
        )
    wanted = [scan for scan in found.scans if fold is None or subset_of(scan.folder) == fold]
    if fold is not None and not wanted:
        raise UserError(
            f"--fold: expected scans in subset{fold}, such as subset{fold}/*.mhd, in {root}, it has "
            f"{len(found.scans)} elsewhere; without --fold all are taken"
        )
    scans = [Scan(scan.path, save / scan.folder, scan.folder) for scan in wanted]
    for scan in scans:
        if scan.record_file == save / MANIFEST:
            raise UserError(f"{scan.source}: expected another name, since the record of its crops would be {MANIFEST}")
    return scans, found.unreadable


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
    allowed = max(1, int(max_bad * len(scans))) if max_bad else 0
    text = f"{manifest['pairs']} pairs of {manifest['scans']} scans, {manifest['bytes'] / 1e6:.0f} MB in {save}"
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


def main() -> int:
    """Scans -> crop pairs -> manifest; status 1 when more scans failed than allowed, or no scan gave crops."""
    options = parse_arguments()
    world = read_world()
    settings = CropSettings(
        shape=(options.input_rows, options.input_cols, options.input_deps),
        box_scale=(options.crop_rows / PUBLISHED_SIDE, options.crop_cols / PUBLISHED_SIDE),
        pairs=options.scale, seed=options.seed, dtype=options.dtype,
    )  # fmt: skip
    save = Path(options.save)
    scans, unreadable = choose_scans(Path(options.data), save, options.fold, verbose=world.is_main)
    prepare_folder(save)
    failures = preprocess_all(scans[world.rank :: world.size], settings, workers=options.workers, world=world)
    manifest = write_manifest(save, failures)
    return conclude(manifest, scans, unreadable, save=save, max_bad=options.max_bad)


if __name__ == "__main__":
    run_command(main)
