"""Programs in processes of their own, started in no time: a new interpreter takes seconds to import everything."""

import importlib
import multiprocessing
import os
import socket
import sys
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import torch

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["main", "downstream", "luna_preprocess"])


def run_program(program: str, options: list[str], log: str, place: dict[str, str]) -> None:
    """In a new process: a program's main, single-threaded, its words into a file.

    Args:
        program: a module with a ``main``.
        options: as typed.
        log: the file.
        place: environment variables that tell the process its place, none for a world of one.
    """
    os.environ.update(place)
    torch.set_num_threads(1)
    # As in a program that was started by hand; here it would be that of this process's own start.
    multiprocessing.set_start_method("fork", force=True)
    sys.argv = [f"{program}.py", *options]
    with open(log, "a", buffering=1, encoding="utf-8") as sys.stderr:
        try:
            status = importlib.import_module(program).main()
        except BaseException as error:
            print(f"{program}: {type(error).__name__}: {error}", file=sys.stderr)
            raise
    sys.exit(status)


def start(program: str, options: list[str], log: Path, **place: str) -> ForkServerProcess:
    """The program in a process of its own."""
    process = CONTEXT.Process(target=run_program, args=(program, options, str(log), place))
    process.start()
    return process


def free_port() -> str:
    """A port of this machine that nobody uses."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def run_together(
    options: list, folder: Path, *, size: int = 2, program: str = "main"
) -> tuple[list[int | None], list[str]]:
    """A program on the CPU in several processes, which are told their places as torchrun would tell them.

    Args:
        options: as typed.
        folder: for what is printed.
        size: processes.
        program: a module with a ``main``.

    Returns:
        Exit statuses and what was printed, by rank.
    """
    meeting = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    logs = [folder / f"rank{rank}.txt" for rank in range(size)]
    typed = ["--device", "cpu", *map(str, options)]
    processes = [
        start(program, typed, log, RANK=str(rank), LOCAL_RANK=str(rank), **meeting) for rank, log in enumerate(logs)
    ]
    for process in processes:
        process.join(120)
        process.kill()
        process.join()
    return [process.exitcode for process in processes], [log.read_text() for log in logs]
