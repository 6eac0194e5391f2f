"""Time actions and programs: medians of interleaved measurements, and time and memory of child processes."""

import contextlib
import os
import re
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from utils.errors import UserError

ROOT = Path(__file__).parents[2]
POLL_SECONDS = 0.02

Timing = Callable[[], float]


def medians(*measurements: Timing, repeats: int, warm_up: bool = True) -> list[float]:
    """Return the median of each measurement; they alternate, so that other load on the machine affects all of them.

    Args:
        measurements: functions that return a number.
        repeats: how many times each is run.
        warm_up: whether each is run once more before, without counting.
    """
    if warm_up:
        for measurement in measurements:
            measurement()
    rounds = [[measurement() for measurement in measurements] for _ in range(repeats)]
    return [statistics.median(values) for values in zip(*rounds, strict=True)]


def seconds_of(action: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> Timing:
    """Return a measurement of an action's seconds, by default of wall-clock time."""

    def measure() -> float:
        start = clock()
        action()
        return clock() - start

    return measure


def core_ms_of(action: Callable[[], Any], samples: int) -> Timing:
    """Return a measurement of an action's CPU milliseconds per sample, summed over threads."""
    seconds = seconds_of(action, time.process_time)
    return lambda: 1000 * seconds() / samples


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    """Use ``n`` threads in torch and SimpleITK; loader workers have one."""
    import SimpleITK as sitk
    import torch

    torch_before, sitk_before = torch.get_num_threads(), sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    torch.set_num_threads(n)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(n)
    try:
        yield
    finally:
        torch.set_num_threads(torch_before)
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(sitk_before)


class Run(NamedTuple):
    """A program that ended with status 0."""

    seconds: float
    peak_gb: float
    """Peak memory in GB, without its child processes."""
    output: str


def run_program(arguments: Sequence[str | Path]) -> Run:
    """Run Python with ``arguments`` in the project's folder, with one thread in each library.

    Raises:
        UserError: the program failed.
    """
    # Unbuffered, so that stdout and stderr stay in order and the reason of a failure comes last.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, *map(str, arguments)]
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
        peak = _watch(process)
        seconds = time.perf_counter() - start
        output.seek(0)
        text = output.read()
    if process.returncode:
        reason = (text.strip() or "no output").rpartition("\n")[2]
        raise UserError(f"{' '.join(command)} ended with status {process.returncode}: {reason}")
    return Run(seconds, peak, text)


def _watch(process: subprocess.Popen) -> float:
    """Wait for a process; returns its peak memory in GB.

    The memory is read while it runs, since getrusage afterwards may report that of the parent from which it was forked.
    """
    ended, peak = os.pidfd_open(process.pid), 0.0
    try:
        while not select.select([ended], [], [], POLL_SECONDS)[0]:
            peak = max(peak, memory_gb(process.pid, "VmHWM"))
    finally:
        os.close(ended)
        process.wait()
    return peak


def memory_gb(pid: int | str, field: str, file: str = "status") -> float:
    """Read a field of ``/proc/PID/status`` or a similar file, in GB; 0 where there is none."""
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{pid}/{file}").read_text(), re.MULTILINE)
    except OSError:
        return 0.0
    return int(found[1]) * 1024 / 1e9 if found else 0.0
