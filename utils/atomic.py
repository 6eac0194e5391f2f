"""Files that are there whole or not at all."""

import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from utils.errors import UserError

TEMPORARY_SUFFIX = ".partial"
# A temporary file of another machine, whose processes cannot be asked for, is nobody's after so long.
ABANDONED_SECONDS = 3600
# Systems and file systems on which folders cannot be put on the disk of their own say one of these.
NO_SYNC_OF_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR)


@contextlib.contextmanager
def whole_file(
    path: str | Path, mode: str = "wb", before_replace: Callable[[], None] | None = None
) -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path`` that takes its place when the block ends well, and goes when it does not.

    The data is on the disk (fsync) before the rename, and so is the rename when the block has ended: after a kill or
    a power cut ``path`` holds either its old content or all of the new. Temporary files that killed processes left of
    ``path`` go, too.

    Args:
        path: the file to be.
        mode: ``'wb'`` or ``'w'`` (UTF-8).
        before_replace: called when all data is on the disk and the old file still in its place.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    temporary = temporary_name(path)
    remove_leftovers(path)
    with writing(path, temporary) as watch:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield watch(file)
            file.flush()
            os.fsync(file.fileno())
        if before_replace is not None:
            before_replace()
        temporary.replace(path)
        _sync_folder(path.parent)


@contextlib.contextmanager
def writing(path: Path, temporary: Path) -> Iterator[Callable[[IO[Any]], IO[Any]]]:
    """Whatever goes wrong while ``temporary`` is to become ``path``: it is removed, and a failed disk is one line.

    Yields:
        What opened files are to be handed through, so that their errors are known whatever a library makes of them.

    Raises:
        UserError: something could not be written.
    """
    failures: list[OSError] = []
    try:
        yield partial(_watch, failures=failures)
    except Exception as error:
        _remove(temporary)
        first = failures[0] if failures else error
        if isinstance(first, OSError):
            raise write_error(path, first) from error
        raise
    except BaseException:
        _remove(temporary)
        raise


def _watch(file: IO[Any], failures: list[OSError]) -> IO[Any]:
    """Note the errors of writing to a file.

    ``torch.save`` for one goes on to write a zip's end after an error, and raises that this is not where it should be.
    """
    for name in ("write", "flush"):
        setattr(file, name, _noting(getattr(file, name), failures))
    return file


def _noting(method: Callable[..., Any], failures: list[OSError]) -> Callable[..., Any]:
    def noting(*arguments: Any) -> Any:
        try:
            return method(*arguments)
        except OSError as error:
            failures.append(error)
            raise

    return noting


def write_error(path: Path, error: OSError) -> UserError:
    """The one line of a file that could not be written."""
    # NumPy tells a short write without the system's reason.
    reason = error.strerror or f"{error}; is the disk full?"
    return UserError(f"cannot write {path}: {reason}; nothing was left half written")


def temporary_name(path: Path) -> Path:
    """This process's name for what is to become ``path``."""
    return path.with_name(f"{_prefix(path)}{os.getpid()}{TEMPORARY_SUFFIX}")


def _prefix(path: Path) -> str:
    return f".{path.name}.{socket.gethostname()}."


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files of ``path`` whose processes were killed."""
    ours, anyones = _prefix(path), f".{path.name}."
    # What cannot be listed or removed cannot be written either, which is told where it is tried.
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            if not (entry.name.startswith(anyones) and entry.name.endswith(TEMPORARY_SUFFIX)):
                continue
            process = entry.name.removeprefix(ours).removesuffix(TEMPORARY_SUFFIX)
            if process.isdecimal():
                left = not _lives(int(process))
            else:
                left = time.time() - entry.stat().st_mtime > ABANDONED_SECONDS
            if left:
                Path(entry.path).unlink(missing_ok=True)


def _lives(process: int) -> bool:
    if os.name != "posix":  # os.kill ends processes there, whatever the signal
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    # A killed process answers until its parent asks how it ended, which the first process of a container may never do.
    with contextlib.suppress(OSError):
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text(encoding="utf-8", errors="replace")
    return True


def _remove(temporary: Path) -> None:
    # Where the file could not be made, it cannot be removed either, and the first error is the one to tell.
    with contextlib.suppress(OSError):
        temporary.unlink()


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC_OF_FOLDERS:
            raise
