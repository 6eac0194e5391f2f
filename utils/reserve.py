"""Reserve disk space for a file before it is filled."""

import errno
import os
from pathlib import Path

from utils.atomic import whole_file

# Errors of file systems and C libraries that cannot reserve space without writing.
UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
BLOCK = 1 << 24


def reserve(path: Path, size: int) -> None:
    """Create a file of ``size`` zero bytes with all of its disk space allocated.

    A memory map of a file without its space would end the process when the disk fills up. The space is allocated by a
    system call, or by writing zeros where there is none, as on macOS.

    Raises:
        UserError: the disk has too little space or cannot be written; the file is then removed.
    """
    with whole_file(path) as file:
        if not _allocate(file.fileno(), size):
            for start in range(0, size, BLOCK):
                file.write(bytes(min(BLOCK, size - start)))


def _allocate(descriptor: int, size: int) -> bool:
    if not hasattr(os, "posix_fallocate"):
        return False
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return False
        raise
    return True
