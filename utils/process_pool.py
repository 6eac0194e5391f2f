"""Run one task on many items in several processes, and recover when a process is killed."""

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from typing import TypeVar

from utils.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

# An item fails after this many workers died while processing it, since it may cause their death, as by its size.
MAX_DEATHS = 3


def run_jobs(
    task: Callable[[Item], Result], items: Iterable[Item], *, workers: int
) -> Iterator[tuple[Item, Result | UserError]]:
    """Run ``task(item)`` for all items; yields each item when done, with its result or the UserError that it raised.

    Args:
        task: a function that can be pickled.
        items: the items, which can be pickled and hashed.
        workers: number of processes; with 1, the task runs in this process.

    Raises:
        UserError: the system cannot start the processes or open the connections between them.
    """
    if workers == 1:
        for item in items:
            yield item, _caught(task, item)
        return
    todo, deaths = list(items)[::-1], dict.fromkeys(items, 0)
    while todo:
        context = multiprocessing.get_context("spawn")
        with _starting():
            executor = ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent)
        with executor as pool:
            running: dict[Future[Result | UserError], Item] = {}
            broken = False
            while running or (todo and not broken):
                # At most one item per worker is submitted, so that after a death the running items are the suspects.
                while todo and not broken and _may_start(todo[-1], list(running.values()), deaths, workers):
                    item = todo.pop()
                    with _starting():
                        running[pool.submit(_caught, task, item)] = item
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    item = running.pop(future)
                    if not isinstance(future.exception(), BrokenProcessPool):
                        yield item, future.result()
                        continue
                    broken = True
                    deaths[item] += 1
                    if deaths[item] < MAX_DEATHS:
                        todo.append(item)
                    else:
                        yield item, UserError(f"{MAX_DEATHS} workers died while processing it; is there enough memory?")


def _may_start(item: Item, running: list[Item], deaths: dict[Item, int], workers: int) -> bool:
    """Whether an item may start now; a suspect runs alone, so that no other item is blamed for the deaths it causes."""
    if not running:
        return True
    return len(running) < workers and not any(deaths[one] for one in (item, *running))


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"worker processes cannot be started ({error.strerror or error}); give less to --workers, or 1"
        ) from error


def end_with_parent() -> None:
    """End this worker when its parent process is killed; otherwise it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait_for([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _caught(task: Callable[[Item], Result], item: Item) -> Result | UserError:
    try:
        return task(item)
    except UserError as error:
        return error
