"""Clocks: medians of measurements that take turns, and programs measured from outside."""

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
    """The median of each measurement; they take turns, so that whatever else the machine does meets all of them.

    Args:
        measurements: each does something and returns a number.
        repeats: how often each counts.
        warm_up: whether each is done once before, which does not count.
    """
    if warm_up:
        for measurement in measurements:
            measurement()
    rounds = [[measurement() for measurement in measurements] for _ in range(repeats)]
    return [statistics.median(values) for values in zip(*rounds, strict=True)]


def seconds_of(action: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> Timing:
    """Seconds that an action takes on the wall."""

    def measure() -> float:
        start = clock()
        action()
        return clock() - start

    return measure


def core_ms_of(action: Callable[[], Any], samples: int) -> Timing:
    """Milliseconds of a core, summed over threads, that an action takes for each of its samples."""
    seconds = seconds_of(action, time.process_time)
    return lambda: 1000 * seconds() / samples


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    """``n`` threads for torch and SimpleITK, as loader workers have one."""
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
    """A program that ended well."""

    seconds: float
    peak_gb: float
    """The most memory that it held at once, its children not counted."""
    output: str


def run_program(arguments: Sequence[str | Path]) -> Run:
    """Run Python with ``arguments`` in the project's folder, with one thread in each library.

    Raises:
        UserError: the program failed.
    """
    # Unbuffered, or what was printed first comes last, behind the reason of a failure.
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
        reason = (text.strip() or "no word").rpartition("\n")[2]
        raise UserError(f"{' '.join(command)} ended with status {process.returncode}: {reason}")
    return Run(seconds, peak, text)


def _watch(process: subprocess.Popen) -> float:
    """Wait for a process; returns the high-water mark of its memory in GB.

    Read while it runs: what getrusage says of a child afterwards may be the memory of the parent that it was forked
    from.
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
    """One line of ``/proc/PID/status`` or another such file in GB; 0 where there is none."""
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{pid}/{file}").read_text(), re.MULTILINE)
    except OSError:
        return 0.0
    return int(found[1]) * 1024 / 1e9 if found else 0.0
