"""Work that the main process does while the others wait for it, for however long it takes."""

import contextlib
import time
from collections.abc import Callable

from torch.distributed import Store

from utils.errors import UserError

POLL_SECONDS = 0.2
OUTCOME, DONE, FAILED = "outcome", "done", "failed: "


def main_first(store: Store | None, work: Callable[[], None], *, what: str, is_main: bool) -> None:
    """Do ``work`` in the main process; the others return when it is done, and fail when it fails.

    Through their store, which can be asked again and again: a collective operation gives up after some minutes, and a
    file that says "done" is waited for in vain once the process that was to write it has ended.

    Args:
        store: what the processes share; None for a world of one.
        work: what is to be done.
        what: it is, for messages; another one for all work of a run.
        is_main: whether this is the main process.

    Raises:
        UserError: the main process failed.
        RuntimeError: it is gone, and the store with it.
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
            with contextlib.suppress(RuntimeError):  # the first error is the one to tell
                store.set(key, FAILED + (str(error) or type(error).__name__))
        raise
    if store is not None:
        store.set(key, DONE)
