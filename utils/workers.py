"""Loader workers: starts them, replaces killed ones, and reports a lack of shared memory in one line."""

import contextlib
import gc
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from typing import TypeVar

import torch

from utils.errors import UserError
from utils.progress import say

Batch = TypeVar("Batch")

# Killed workers are replaced at most this many times in one pass over the data.
RESTARTS = 3
SHARED_MEMORY = "/dev/shm"
BUS_ERROR = -getattr(signal, "SIGBUS", 7)  # exit status; Windows has no such signal
# Parts of the messages of several torch versions for a lack of shared memory, memory or file descriptors. The errors
# have no classes of their own.
OUT_OF_RESOURCES = re.compile(r"shared memory|\bshm\b|/torch_\d|Bus error|open files|ancdata|Cannot allocate memory")


def start_worker(worker: int) -> None:
    """Set up a worker: one thread, no reaction to Ctrl-C, and memory pages that stay shared with the main process."""
    torch.set_num_threads(1)
    # The garbage collector writes to the objects that it checks, which copied 50 MB of shared pages in each worker.
    gc.freeze()
    # The main process handles stop signals and ends the workers, with SIGTERM if they hang.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def read_with_workers(
    open_loader: Callable[[int, int], Iterable[Batch]], count: int, *, workers: int
) -> Iterator[Batch]:
    """Yield ``count`` batches; when a worker is killed, new workers continue from the next batch.

    Args:
        open_loader: (number of batches read, number of killed workers so far) to an iterable of the remaining batches.
        count: number of batches.
        workers: number of processes that read; 0: this process reads, and its errors are not changed.

    Raises:
        UserError: workers die repeatedly, or shared memory or other resources of the machine are exhausted.
    """
    if not workers:
        yield from open_loader(0, 0)
        return
    read = deaths = 0
    while read < count:
        started: list[BaseProcess] = []
        try:
            batches = iter(open_loader(read, deaths))
            started = active_children()
            for batch in batches:
                read += 1
                with _worker_errors_deferred():
                    yield batch
        except (RuntimeError, OSError) as error:
            if _is_out_of_resources(error):
                raise _resource_error(_last_line(error)) from error
            # torch's message may contain only that the worker ended.
            if any(worker.exitcode == BUS_ERROR for worker in started):
                raise _resource_error("bus error") from error
            if not str(error).startswith("DataLoader worker (pid"):
                raise
            deaths += 1
            if deaths > RESTARTS:
                raise UserError(
                    f"loader workers died {deaths} times in one epoch ({error}); use a smaller --workers, or 0"
                ) from error
            say(f"a loader worker died ({error}); starting new ones after {read} of {count} batches")


@contextlib.contextmanager
def _worker_errors_deferred() -> Iterator[None]:
    """Defer the error that torch's handler of SIGCHLD raises for a killed worker until a batch has been used.

    It would otherwise be raised in the middle of a training step.
    """
    # Windows has no such signal, and torch no such handler there.
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        yield
        return
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler)
    if callable(handler):
        handler(signal.SIGCHLD, None)


def _is_out_of_resources(error: RuntimeError | OSError) -> bool:
    """Whether workers cannot be started, or cannot pass on their batches, for a lack of resources."""
    # The message of an error in a worker's code is "Caught ... in DataLoader worker process" and a traceback.
    has_started = str(error).startswith("Caught")
    return bool(OUT_OF_RESOURCES.search(_last_line(error))) or (isinstance(error, OSError) and not has_started)


def _last_line(error: Exception) -> str:
    """The message of the error, without a worker's traceback before it."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1].removeprefix("RuntimeError: ")


def _resource_error(reason: str) -> UserError:
    available = ""
    with contextlib.suppress(OSError):
        usage = shutil.disk_usage(SHARED_MEMORY)
        available = f", which has {usage.free / 1e6:.1f} of {usage.total / 1e6:.1f} MB free"
    return UserError(
        f"loader workers cannot pass on their batches ({reason}); they need shared memory, "
        f"{SHARED_MEMORY}{available}: make it larger (docker run --shm-size 8g), or use a smaller --workers, or 0"
    )
