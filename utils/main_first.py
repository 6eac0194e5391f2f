"""Let the main process do some work while the other processes wait, however long it takes."""

import contextlib
import time
from collections.abc import Callable

from torch.distributed import Store

from utils.errors import UserError

POLL_SECONDS = 0.2
OUTCOME, DONE, FAILED = "outcome", "done", "failed: "


def main_first(store: Store | None, work: Callable[[], None], *, what: str, is_main: bool) -> None:
    """Do ``work`` in the main process; the other processes return when it is done and fail when it fails.

    They poll the store that the processes share. A collective operation would time out after some minutes, and a file
    that marks the work as done would never appear if the main process ended early.

    Args:
        store: the store that the processes share; None with a single process.
        work: the work, a function without arguments.
        what: a name of the work, unique within a run.
        is_main: whether this is the main process.

    Raises:
        UserError: the main process failed.
        RuntimeError: the main process has ended, and the store with it.
    """
    key = f"{what}/{OUTCOME}"
    if store is not None and not is_main:
        while not store.check([key]):
            time.sleep(POLL_SECONDS)
        if (outcome := store.get(key).decode()) != DONE:
            raise UserError(f"the main process {outcome}")
        return
    try:
        work()
    except BaseException as error:
        if store is not None:
            with contextlib.suppress(RuntimeError):  # the error of the work is the one to report
                store.set(key, FAILED + (str(error) or type(error).__name__))
        raise
    if store is not None:
        store.set(key, DONE)
