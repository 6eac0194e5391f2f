"""Cut the crop pairs that 3D pre-training reads out of LUNA16's scans."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from data.catalog.file_index import find, require_folder
from data.crop_pairs import CropSettings, Scan, is_finished, preprocess_scan, read_record, write_record
from utils.arguments import OneLineParser, nearest_multiples, number
from utils.atomic import whole_file
from utils.errors import UserError, run_command
from utils.process_pool import run_jobs
from utils.progress import progress, say
from utils.world import World, read_world

# One thread a worker: scans are shared out over processes. Read by the libraries that NumPy loads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

PUBLISHED_SIDE = 64  # voxels of a crop in x and y, to which the published boxes belong
# The network halves a crop three times.
DIVISOR = 8


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options typed; a wrong one ends the program with one line and status 2."""
    parser = OneLineParser(
        prog="luna_preprocess.py",
        description="Cut crop pairs for 3D pre-training out of LUNA16's scans, DATA/subset*/*.mhd. Finished scans are "
        "skipped, so that a run that was stopped goes on. Started by torchrun, several machines share the scans out.",
    )  # fmt: skip
    whole, size = number(int, 1, 10**6), number(int, DIVISOR, 4096)
    parser.add_argument("--data", required=True, help="folder of subset0 ... subset9")
    parser.add_argument("--save", required=True, help="folder for the crops")
    parser.add_argument("--fold", type=number(int, 0, 9), help="preprocess one subset only; unset: all")
    parser.add_argument("--scale", type=whole, default=16, help="crop pairs a scan")
    for name, default in (("rows", 64), ("cols", 64), ("deps", 32)):
        parser.add_argument(f"--input_{name}", type=size, default=default, help="voxels of a global crop")
    for name in ("rows", "cols"):
        help_text = f"mm of the smallest box that is cut; the others keep their proportion ({name})"
        parser.add_argument(f"--crop_{name}", type=size, default=PUBLISHED_SIDE, help=help_text)
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--workers", type=whole, default=cores, help="processes, about 1 GB each; unset: one a core")
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


def find_scans(data: str, save: str, fold: int | None) -> list[Scan]:
    """All scans, in order of their names.

    Raises:
        UserError: no such folder, or no scans in its subsets.
    """
    root = require_folder(data)
    pattern = "subset*" if fold is None else f"subset{fold}"
    sources = find(root, f"{pattern}/*.mhd")
    if not sources:
        raise UserError(f"--data: expected {pattern}/*.mhd in {root}, found none")
    return [Scan(source, Path(save) / source.parent.name) for source in sources]


def prepare_folders(scans: Sequence[Scan]) -> None:
    """Make the folders of the crops.

    Raises:
        UserError: they cannot be made.
    """
    for folder in sorted({scan.target for scan in scans}):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--save: cannot make {folder}: {error.strerror or error}") from error


def preprocess_one(settings: CropSettings, scan: Scan) -> dict[str, Any]:
    """What a worker does."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    return preprocess_scan(scan, settings)


def preprocess_all(scans: Sequence[Scan], settings: CropSettings, *, workers: int, world: World) -> int:
    """Preprocess the scans that are not finished; returns how many failed."""
    todo = [scan for scan in scans if not is_finished(scan, settings)]
    if len(todo) < len(scans):
        print(f"{len(scans) - len(todo)} of {len(scans)} scans are finished already", file=sys.stderr)
    failed = 0
    jobs = run_jobs(partial(preprocess_one, settings), todo, workers=min(workers, max(1, len(todo))))
    for scan, result in progress(jobs, name=f"process {world.rank}", unit="scan", total=len(todo)):
        if isinstance(result, UserError):
            failed += 1
            say(f"failed: {result}")
            write_record(scan, {"scan": scan.name, "settings": settings.as_dict(), "pairs": 0, "failure": str(result)})
    return failed


def write_manifest(save: Path) -> dict[str, Any]:
    """``manifest.json``: what all processes together have made so far; the last one to finish writes it in full."""
    written: dict[str, Any] | None = None
    while written != (manifest := read_manifest(save)):
        with whole_file(save / "manifest.json", "w") as file:
            json.dump(manifest, file, indent=1)
        written = manifest
    return manifest


def read_manifest(save: Path) -> dict[str, Any]:
    """The records of all scans and their totals."""
    records = [record for path in find(save, "subset*/*.json") if (record := read_record(path))]
    size = sum(path.stat().st_size for path in find(save, "subset*/*.npy"))
    return {
        "scans": len(records),
        "pairs": sum(record["pairs"] for record in records),
        "failures": {record["scan"]: record["failure"] for record in records if "failure" in record},
        "bytes": size,
        "records": records,
    }


def main() -> int:
    """Scans -> crop pairs -> manifest; status 1 when a scan failed."""
    options = parse_arguments()
    world = read_world()
    settings = CropSettings(
        shape=(options.input_rows, options.input_cols, options.input_deps),
        box_scale=(options.crop_rows / PUBLISHED_SIDE, options.crop_cols / PUBLISHED_SIDE),
        pairs=options.scale, seed=options.seed, dtype=options.dtype,
    )  # fmt: skip
    scans = find_scans(options.data, options.save, options.fold)
    prepare_folders(scans)
    failed = preprocess_all(scans[world.rank :: world.size], settings, workers=options.workers, world=world)
    manifest = write_manifest(Path(options.save))
    print(
        f"{manifest['pairs']} pairs of {manifest['scans']} scans, {manifest['bytes'] / 1e6:.0f} MB in {options.save}"
        + (f"; {failed} scans failed, see manifest.json" if failed else ""),
        file=sys.stderr,
    )
    return 1 if failed else 0


if __name__ == "__main__":
    run_command(main)
