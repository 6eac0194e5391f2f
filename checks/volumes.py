"""A look at volumes before luna_preprocess.py cuts them: each is read once, and its first crop pair is drawn."""

from collections.abc import Sequence, Set
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from checks.report import finish, print_left_out
from checks.sheet import Shown, evenly
from checks.tally import Numbers, Tally
from data.crop_pairs import first_pair, load_scan
from data.pairs import CropSettings
from data.readers.file_facts import FileFacts, describe_volume
from data.scan_records import Scan
from utils.errors import UserError
from utils.process_pool import run_jobs
from utils.progress import progress

CAPTION = "middle slices of the first crop pair of a scan, and two of its local crops, 0 black and 1 white"


class ScanLook(NamedTuple):
    """What reading a scan found."""

    facts: FileFacts
    voxels: tuple[int, ...] = ()
    """At the spacing of the crops; empty where it would fail."""
    small: bool = False
    """Whether boxes are nearer to its border than they should be."""
    pictures: Sequence[np.ndarray] = ()
    """uint8, H W; none for scans that are not shown."""
    problem: str | None = None
    """Why it would fail although it can be read."""


def look_at_scan(settings: CropSettings, shown: Set[str], scan: Scan) -> ScanLook:
    """Read a scan and draw its first crop pair, in a worker process.

    Raises:
        UserError: the scan cannot be read.
    """
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    found: list[FileFacts] = []

    def note_values(values: np.ndarray) -> None:
        found.append(describe_volume(scan.source).with_values(values))

    try:
        volume, limits = load_scan(scan, settings, on_stored=note_values)
        pair, local = first_pair(scan, volume, limits, settings)
    except UserError as error:
        if not found:
            raise
        return ScanLook(found[0], problem=str(error))
    except Exception as error:  # as in a run: a damaged file can raise any error
        raise UserError(f"{scan.source}: {type(error).__name__}: {error}") from error
    pictures = [_middle(crop) for crop in (*pair, *local[:2])] if scan.listed in shown else []
    return ScanLook(found[0], volume.shape, limits.narrow, pictures)


def _middle(crop: np.ndarray) -> np.ndarray:
    """Return the middle slice in z of X Y Z in 0..1, rows are y."""
    return (crop[..., crop.shape[2] // 2].T.clip(0, 1) * 255).round().astype(np.uint8)


def check_volumes(
    scans: Sequence[Scan], settings: CropSettings, unreadable: Sequence[str], notes: Sequence[str], *, save: Path,
    workers: int, allowed: int,
) -> int:  # fmt: skip
    """Scans -> table, contact sheet and verdict; returns the exit status: 1 if a run would fail.

    Args:
        scans: those of the run.
        settings: of the crops.
        unreadable: a line for each folder or series that cannot be read.
        notes: what was reported when they were searched for.
        save: folder for ``check.png`` and ``check.json``; nothing else is written.
        workers: processes.
        allowed: how many scans may fail.
    """
    shown = {scans[i].listed for i in evenly(len(scans))}
    tally, lengths, small = Tally(), {axis: Numbers() for axis in "xyz"}, 0
    broken, pictures = dict[str, str](), dict[str, Sequence[np.ndarray]]()
    jobs = run_jobs(partial(look_at_scan, settings, shown), scans, workers=max(1, min(workers, len(scans))))
    for scan, look in progress(jobs, name="reading", unit="scan", total=len(scans)):
        if isinstance(look, UserError) or look.problem:
            broken[scan.listed] = str(look) if isinstance(look, UserError) else str(look.problem)
        if isinstance(look, UserError):
            continue
        tally.add(scan.listed, look.facts)
        small += look.small
        for axis, length in zip("xyz", look.voxels, strict=False):
            lengths[axis].add(length)
        pictures |= {scan.listed: look.pictures} if look.pictures else {}
    failed, good = [*broken.values(), *unreadable], len(scans) - len(broken)
    rows = {"volumes": str(len(scans)), "folders": str(len({scan.folder for scan in scans}))} | tally.rows()
    if good:
        rows |= {f"{axis}, voxels of {settings.spacing:g} mm": str(numbers) for axis, numbers in lengths.items()}
        rows |= {"crop pairs, up to": str(settings.pairs * good)}
    rows |= {"small, less border": str(small)} if small else {}
    rows |= {"would fail": str(len(failed))} if failed else {}
    print_left_out([*notes, *(f"refused: {line}" for line in unreadable)], broken, tally.flat_names)
    record = {"notes": list(notes), "refused": list(unreadable), "volumes": tally.as_record() | {"broken": broken}}
    return finish(
        save, columns={"": rows}, record=record, samples=[Shown(name, pictures[name]) for name in sorted(pictures)],
        caption=CAPTION, problem=_problem(failed, len(scans), allowed, good=good),
    )  # fmt: skip


def _problem(failed: Sequence[str], total: int, allowed: int, *, good: int) -> str | None:
    if not good:
        return f"none of {total} scans would give crops; the first: {failed[0]}"
    if len(failed) > allowed:
        return f"--max_bad: {len(failed)} scans would fail, {allowed} of {total} may; the first: {failed[0]}"
    return None
