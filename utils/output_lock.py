"""One run at a time in a folder: a lock that the system lets go of when its process ends, however that ends."""

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
# What file systems say that know no locks, as some network file systems.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
TAKEN = (errno.EAGAIN, errno.EACCES)

_held = contextlib.ExitStack()


def lock_output(folder: str | Path, world: World) -> None:
    """Make the folder and hold it until :func:`unlock_output` or this process's end; every process must call it.

    The processes of one run hold it together, through the main one. Loader workers, which may live a few seconds longer
    than a killed main process, have no part in it: record locks are not handed on to children.

    Raises:
        UserError: the folder cannot be written, or another run holds it.
    """
    problem = gather(_lock(Path(folder)) if world.is_main else "")[0]
    if problem:
        raise UserError(f"--output: {problem}")


def unlock_output() -> None:
    """Let go of what this process holds."""
    _held.close()


def _lock(folder: Path) -> str:
    """What is in the way, nothing for a lock that is held."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Not emptied on opening: it says who holds it.
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
            return f"another run ({file.read()}) writes in {folder}; wait for its end, or name another folder"
        if error.errno not in NO_LOCKS:
            return f"cannot write in {folder}: {error.strerror or error}"
        print(f"--output: no locks can be had in {folder}: see to it that no other run writes there", file=sys.stderr)
    return ""
