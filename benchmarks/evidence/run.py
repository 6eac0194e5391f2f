"""Do all runs: several processes, on one machine or many, take the next run that nobody else has taken."""

import contextlib
import json
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks.evidence.jobs import DONE, Job, all_jobs, is_done
from benchmarks.evidence.settings import Settings
from engine.stopping import Stopped, stopped_at_once
from evaluation.results import RESULTS
from utils.atomic import whole_file
from utils.cores import available_cores
from utils.errors import UserError
from utils.output_lock import lock_output, unlock_output
from utils.process_pool import end_with_parent
from utils.progress import duration, say
from utils.world import World

LOG = "log.txt"
# Seconds until a process that found nothing to do looks again.
PATIENCE = 2.0


def run_all(settings: Settings, workers: int) -> dict[str, str]:
    """Do all runs that are not done yet, in so many processes; returns those that failed, with reasons."""
    threads = max(1, available_cores() // workers)
    others = [
        get_context("spawn").Process(target=_help, args=(settings, threads), daemon=False) for _ in range(workers - 1)
    ]
    for process in others:
        process.start()
    torch.set_num_threads(threads)
    try:
        with stopped_at_once():
            return work(settings, verbose=True)
    except BaseException:
        for process in others:
            process.terminate()  # they save the state of their runs and stop
        raise
    finally:
        for process in others:
            process.join()


def _help(settings: Settings, threads: int) -> None:
    end_with_parent()
    torch.set_num_threads(threads)
    with contextlib.suppress(Stopped), stopped_at_once():
        work(settings, verbose=False)


def work(settings: Settings, *, verbose: bool) -> dict[str, str]:
    """Take runs until none is left that this process could do; returns those that failed here, with reasons."""
    jobs, failed = all_jobs(settings), dict[str, str]()
    while todo := [job for job in jobs if not is_done(job, settings)]:
        taken, busy = False, False
        for job in todo:
            folder = job.folder(settings)
            if str(folder) in failed or is_done(job, settings) or not job.ready(settings):
                continue
            if not _lock(folder):
                busy = True
                continue
            if verbose:
                done = f"{len(jobs) - len(todo)} of {len(jobs)} runs done{_left(jobs, settings)}"
                say(f"{done}; now {folder.name} of {folder.parent.name}")
            taken = True
            try:
                if reason := run_job(job, settings):
                    failed[str(folder)] = reason
                    say(f"{folder}: {reason}")
            finally:
                unlock_output()
            break
        if not taken and not busy:
            break
        if not taken:
            time.sleep(PATIENCE)
    return failed


@contextlib.contextmanager
def exclusively(folder: Path) -> Iterator[None]:
    """Let no other process work in a folder; waits for one that does."""
    while not _lock(folder):
        time.sleep(PATIENCE)
    try:
        yield
    finally:
        unlock_output()


def _lock(folder: Path) -> bool:
    """Take a run; False where another process has it."""
    try:
        lock_output(folder, World())
    except UserError:
        unlock_output()
        return False
    return True


def run_job(job: Job, settings: Settings) -> str:
    """Do one run, with its output in its ``log.txt``; returns the reason if it failed.

    Raises:
        Stopped: the process was asked to stop; the state of a training is saved, other runs begin again.
    """
    folder = job.folder(settings)
    if is_done(job, settings):
        return ""
    started = time.monotonic()
    with (
        open(folder / LOG, "a", encoding="utf-8") as log,
        contextlib.redirect_stderr(log),
        contextlib.redirect_stdout(log),
    ):
        try:
            # A probe refuses a folder with results; where they are there, it had ended.
            if not (folder / RESULTS).exists():
                job.run(settings)
        except UserError as error:
            return str(error)
        except SystemExit as error:  # a wrong option; the log has the line
            return f"options are wrong, see {folder / LOG} ({error})"
    # Hundreds of MB each; a run that is done is never resumed, and only the weights of encoders are read again.
    shutil.rmtree(folder / "state", ignore_errors=True)
    if not job.keeps_weights:
        for path in folder.glob("*.pt"):
            path.unlink()
    with whole_file(folder / DONE, "w") as file:
        json.dump({"seconds": time.monotonic() - started, "kind": job.kind}, file)
    return ""


def _left(jobs: Sequence[Job], settings: Settings) -> str:
    """How long the runs that are left take one after the other, by those of their kind that are done."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for job in jobs:
        if is_done(job, settings):
            done = json.loads((job.folder(settings) / DONE).read_text("utf-8"))
            seconds[done["kind"]].append(done["seconds"])
    left = [job for job in jobs if not is_done(job, settings)]
    known = [sum(seconds[job.kind]) / len(seconds[job.kind]) for job in left if job.kind in seconds]
    if not known:
        return ""
    unknown = len(left) - len(known)
    return f", {duration(sum(known))} of work left" + (f" and {unknown} runs of a kind not seen yet" if unknown else "")
