"""Writes files atomically: after a kill or a power cut a file is complete or absent."""

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
# A temporary file of another machine, whose processes cannot be listed here, is left over if it is older than this.
ABANDONED_SECONDS = 3600
# Errors of systems and file systems that have no fsync of folders.
NO_SYNC_OF_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR)


@contextlib.contextmanager
def whole_file(
    path: str | Path, mode: str = "wb", before_replace: Callable[[], None] | None = None
) -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path`` that replaces it when the block succeeds, and is removed when it fails.

    The data are on the disk (fsync) before the rename, and the rename is when the block has ended: after a kill or a
    power cut ``path`` has either its old content or all of the new. Temporary files of ``path`` that killed processes
    left are removed.

    Args:
        path: the file to write.
        mode: ``'wb'`` or ``'w'`` (UTF-8).
        before_replace: called when all data are on the disk, before the old file is replaced.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    temporary = temporary_name(path)
    remove_leftovers(path)
    with writing(path, temporary) as track:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield track(file)
            file.flush()
            os.fsync(file.fileno())
        if before_replace is not None:
            before_replace()
        temporary.replace(path)
        _sync_folder(path.parent)


@contextlib.contextmanager
def writing(path: Path, temporary: Path) -> Iterator[Callable[[IO[Any]], IO[Any]]]:
    """Remove ``temporary`` if the block that writes it and renames it to ``path`` fails; write errors are one line.

    Yields:
        A function that tracks the write errors of an open file, and returns the file. It finds them even where a
        library raises another error in their place.

    Raises:
        UserError: something could not be written.
    """
    failures: list[OSError] = []
    try:
        yield partial(_track, failures=failures)
    except Exception as error:
        _remove(temporary)
        first = failures[0] if failures else error
        if isinstance(first, OSError):
            raise write_error(path, first) from error
        raise
    except BaseException:
        _remove(temporary)
        raise


def _track(file: IO[Any], failures: list[OSError]) -> IO[Any]:
    """Append the write errors of a file to ``failures``.

    ``torch.save``, for example, continues after an error with the end of the zip file, and raises an error about its
    position instead.
    """
    for name in ("write", "flush"):
        setattr(file, name, _recording(getattr(file, name), failures))
    return file


def _recording(method: Callable[..., Any], failures: list[OSError]) -> Callable[..., Any]:
    def recording(*arguments: Any) -> Any:
        try:
            return method(*arguments)
        except OSError as error:
            failures.append(error)
            raise

    return recording


def write_error(path: Path, error: OSError) -> UserError:
    """The error, one line, for a file that could not be written."""
    # NumPy reports an incomplete write without the system's reason.
    reason = error.strerror or f"{error}; is the disk full?"
    return UserError(f"cannot write {path}: {reason}; nothing was left half written")


def temporary_name(path: Path) -> Path:
    """This process's temporary file for ``path``."""
    return path.with_name(f"{_prefix(path)}{os.getpid()}{TEMPORARY_SUFFIX}")


def _prefix(path: Path) -> str:
    return f".{path.name}.{socket.gethostname()}."


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files of ``path`` whose processes were killed."""
    own_machine, any_machine = _prefix(path), f".{path.name}."
    # A folder that cannot be listed or changed cannot be written either, which is reported when it is written.
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            if not (entry.name.startswith(any_machine) and entry.name.endswith(TEMPORARY_SUFFIX)):
                continue
            process = entry.name.removeprefix(own_machine).removesuffix(TEMPORARY_SUFFIX)
            if process.isdecimal():
                left_over = not _is_running(int(process))
            else:
                left_over = time.time() - entry.stat().st_mtime > ABANDONED_SECONDS
            if left_over:
                Path(entry.path).unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    if os.name != "posix":  # os.kill ends the process there, with any signal
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    # A killed process (zombie) exists until its parent reads its exit status; the first process of a container may not.
    with contextlib.suppress(OSError):
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text(encoding="utf-8", errors="replace")
    return True


def _remove(temporary: Path) -> None:
    # A file that could not be created cannot be removed either; the first error is the one to report.
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
