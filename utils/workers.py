"""Loader workers: how one starts, what happens when one dies, and what to do where the machine has no room for them."""

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

# New workers are started so often in one pass over the data.
RESTARTS = 3
SHARED_MEMORY = "/dev/shm"
BUS_ERROR = -getattr(signal, "SIGBUS", 7)  # exit status; Windows has no such signal
# How torch, in one version or another, says that workers cannot hand over what they read. It knows no classes for that.
NO_ROOM = re.compile(r"shared memory|\bshm\b|/torch_\d|Bus error|open files|ancdata|Cannot allocate memory")


def start_worker(worker: int) -> None:
    """One thread a worker, signals as the main process wants them, and no copy of that one's objects."""
    torch.set_num_threads(1)
    # The garbage collector writes to all that it looks at: 50 MB of pages shared with the main process became copies.
    gc.freeze()
    # The main process decides when to stop: it notes SIGTERM and ends the workers, by SIGTERM if they hang.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def read_with_workers(
    open_loader: Callable[[int, int], Iterable[Batch]], count: int, *, workers: int
) -> Iterator[Batch]:
    """``count`` batches; when a worker is killed, new ones go on from the batch that was reached.

    Args:
        open_loader: (batches that were read, workers that died so far) to an iterable of the batches that are left.
        count: batches.
        workers: processes that read; with 0 it is this one, whose errors are its own.

    Raises:
        UserError: workers die again and again, or the machine has no room for them.
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
                with _no_interruption():
                    yield batch
        except (RuntimeError, OSError) as error:
            if _is_no_room(error):
                raise _no_room(_last_line(error)) from error
            # torch may say no more than that the worker ended.
            if any(worker.exitcode == BUS_ERROR for worker in started):
                raise _no_room("bus error") from error
            if not str(error).startswith("DataLoader worker (pid"):
                raise
            deaths += 1
            if deaths > RESTARTS:
                raise UserError(
                    f"loader workers died {deaths} times in one epoch ({error}); give less to --workers, or 0"
                ) from error
            say(f"a loader worker died ({error}); starting new ones after {read} of {count} batches")


@contextlib.contextmanager
def _no_interruption() -> Iterator[None]:
    """Keep torch from raising a worker's death, by its handler of SIGCHLD, in the midst of the use of a batch.

    It is raised afterwards instead.
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


def _is_no_room(error: RuntimeError | OSError) -> bool:
    """Whether workers cannot be started, or cannot hand over what they read."""
    # A bug in a worker's code comes as "Caught ... in DataLoader worker process" and a traceback.
    has_started = str(error).startswith("Caught")
    return bool(NO_ROOM.search(_last_line(error))) or (isinstance(error, OSError) and not has_started)


def _last_line(error: Exception) -> str:
    """What went wrong, without a worker's traceback before it."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1].removeprefix("RuntimeError: ")


def _no_room(reason: str) -> UserError:
    room = ""
    with contextlib.suppress(OSError):
        usage = shutil.disk_usage(SHARED_MEMORY)
        room = f", which has {usage.free / 1e6:.1f} of {usage.total / 1e6:.1f} MB free"
    return UserError(
        f"loader workers cannot hand over what they read ({reason}); they need shared memory, "
        f"{SHARED_MEMORY}{room}: make it larger (docker run --shm-size 8g), or give less to --workers, or 0"
    )
