"""Cut the crop pairs that 3D pre-training reads out of CT scans: LUNA16's, or one's own."""

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

# One thread a worker: scans are shared out over processes. Read by the libraries that NumPy loads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

PUBLISHED_SIDE = 64  # voxels of a crop in x and y, to which the published boxes belong
# The network halves a crop three times.
DIVISOR = 8
# What no scan can help: the disk is full, or may not be written.
DISK_FAILS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options typed; a wrong one ends the program with one line and status 2."""
    parser = OneLineParser(
        prog="luna_preprocess.py",
        description="Cut crop pairs for 3D pre-training out of LUNA16's scans, DATA/subset*/*.mhd, or of the CT scans "
        f"({', '.join(SCANS)}) in any other folders. Finished scans are skipped, so that a run that was stopped goes "
        "on. Started by torchrun, several machines share the scans out.",
    )  # fmt: skip
    whole, size = number(int, 1, 10**6), number(int, DIVISOR, 4096)
    parser.add_argument(
        "--data", type=path_type, required=True, help="folder of subset0 ... subset9, or of other scans"
    )
    parser.add_argument("--save", type=path_type, required=True, help="folder for the crops")
    parser.add_argument("--fold", type=number(int, 0, 9), help="preprocess one subset only; unset: all")
    parser.add_argument("--scale", type=whole, default=16, help="crop pairs a scan")
    for name, default in (("rows", 64), ("cols", 64), ("deps", 32)):
        parser.add_argument(f"--input_{name}", type=size, default=default, help="voxels of a global crop")
    for name in ("rows", "cols"):
        help_text = f"mm of the smallest box that is cut; the others keep their proportion ({name})"
        parser.add_argument(f"--crop_{name}", type=size, default=PUBLISHED_SIDE, help=help_text)
    parser.add_argument(
        "--workers", type=whole, default=available_cores(), help="processes, about 1 GB each; unset: one a core"
    )
    parser.add_argument(
        "--max_bad", type=number(float, 0, 1), default=0.01,
        help="share of scans that may fail, one scan at least; 0: none may",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=number(int, 0, 2**62), default=42, help="what all randomness comes from, with the scan's name"
    )
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32", help="float16 halves the disk")
    options = parser.parse_args(arguments)
    for name in ("input_rows", "input_cols", "input_deps"):
        if (side := getattr(options, name)) % DIVISOR:
            nearest = nearest_multiples(side, DIVISOR)
            parser.error(f"--{name}: expected a multiple of {DIVISOR}, got {side}; give {nearest}")
    return options


def choose_scans(root: Path, save: Path, fold: int | None, *, verbose: bool) -> tuple[list[Scan], list[str]]:
    """The scans to preprocess, in order of their paths, and a line for each folder that cannot be read.

    Raises:
        UserError: no such folder, no scans in it, or names that do not tell them apart.
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
            raise UserError(f"{scan.source}: expected another name, the record of its crops would be {MANIFEST}")
    return scans, found.unreadable


def prepare_folder(save: Path) -> None:
    """Make the folder of the crops.

    Raises:
        UserError: it cannot be made.
    """
    try:
        save.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--save: cannot make {save}: {error.strerror or error}") from error


class DiskFailure(UserError):
    """The folder of the crops cannot be written, for no scan's reason."""


def preprocess_one(settings: CropSettings, scan: Scan) -> dict[str, Any]:
    """What a worker does.

    Raises:
        DiskFailure: the run cannot go on.
        UserError: whatever else happened; the scan has failed.
    """
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        return preprocess_scan(scan, settings)
    except UserError as error:
        if _is_disk_failure(error):
            raise DiskFailure(str(error)) from error
        raise
    except Exception as error:  # there is no end to what a damaged file can do, and the other scans are to be made
        raise UserError(f"{scan.source}: {type(error).__name__}: {error}") from error


def _is_disk_failure(error: UserError) -> bool:
    # A short write that NumPy notices has no number.
    cause = error.__cause__
    return isinstance(cause, OSError) and (cause.errno is None or cause.errno in DISK_FAILS)


def preprocess_all(scans: Sequence[Scan], settings: CropSettings, *, workers: int, world: World) -> dict[str, str]:
    """Preprocess the scans that are not finished; returns why those failed that did, by name.

    Raises:
        UserError: the folder of the crops cannot be written, or holds files of another program.
    """
    todo = say_how_far(scans, settings)
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


def say_how_far(scans: Sequence[Scan], settings: CropSettings) -> list[Scan]:
    """The scans that are not finished; says why those are made anew that were made before."""
    by_state: dict[str, list[Scan]] = {}
    for scan in scans:
        by_state.setdefault(state_of(scan, settings), []).append(scan)
    for state, some in by_state.items():
        if state == FINISHED:
            say(f"{len(some)} of {len(scans)} scans are finished already")
        elif state != NEW:
            say(f"made anew: {len(some)} of {len(scans)} scans {state} ({first_names([s.listed for s in some])})")
    finished = set(by_state.get(FINISHED, []))
    return [scan for scan in scans if scan not in finished]


def conclude(
    manifest: dict[str, Any], scans: Sequence[Scan], unreadable: Sequence[str], *, save: Path, max_bad: float
) -> int:
    """Say what came of it; returns the exit status.

    Args:
        manifest: what all processes have made so far.
        scans: those of this run, of all processes.
        unreadable: a line for each folder that could not be read.
        save: the folder of the crops.
        max_bad: share of scans that may fail, one at least unless it is 0.
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
    none_gave = not any(record["pairs"] for record in manifest["records"] if record["scan"] in names)
    text += f"; {len(failed)} scans failed, see {MANIFEST}: "
    if len(failed) > allowed or (none_gave and len(failed) >= len(scans)):
        say(text + f"--max_bad {max_bad:g} allows {allowed} of {len(scans)}" + ", and one must give crops" * none_gave)
        return 1
    say(text + f"--max_bad {max_bad:g} allows {allowed} of {len(scans)}; pre-training leaves them out")
    return 0


def main() -> int:
    """Scans -> crop pairs -> manifest; status 1 when more scans failed than may, or none gave any."""
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
