"""Locks the output folder for one run; the system releases the lock when the process ends, even by a kill."""

import contextlib
import errno
import os
import socket
import sys
import time
from pathlib import Path

from utils.distributed import gather
from utils.errors import UserError
from utils.world import World

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

FILE = ".lock"
# Errors of file systems without locks, such as some network file systems.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
TAKEN = (errno.EAGAIN, errno.EACCES)

_held = contextlib.ExitStack()


def lock_output(folder: str | Path, world: World) -> None:
    """Create the folder and lock it until :func:`unlock_output` or the end of this process; every process must call it.

    The main process locks it for all processes of the run. Loader workers, which may run a few seconds longer than a
    killed main process, do not hold the lock: child processes do not inherit record locks.

    Raises:
        UserError: the folder cannot be written, or another run has locked it.
    """
    problem = gather(_lock(Path(folder)) if world.is_main else "")[0]
    if problem:
        raise UserError(f"--output: {problem}")


def unlock_output() -> None:
    """Release the lock of this process."""
    _held.close()


def _lock(folder: Path) -> str:
    """Lock the folder; returns the reason if that fails, else an empty string."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Not emptied on opening, since it names the process that holds the lock.
        file = _held.enter_context(open(folder / FILE, "a+", encoding="utf-8"))  # noqa: SIM115
    except OSError as error:
        return f"cannot write in {folder}: {error.strerror or error}"
    try:
        if fcntl is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        file.flush()
    except OSError as error:
        if error.errno in TAKEN:
            file.seek(0)
            return f"another run ({file.read()}) writes in {folder}; wait for its end, or give another folder"
        if error.errno not in NO_LOCKS:
            return f"cannot write in {folder}: {error.strerror or error}"
        print(f"--output: {folder} does not support locks: make sure that no other run writes there", file=sys.stderr)
    return ""
