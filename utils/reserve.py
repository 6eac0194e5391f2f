"""Room on a disk, taken before it is needed."""

import errno
import os
from pathlib import Path

from utils.atomic import whole_file

# What file systems and C libraries say that cannot take room without writing.
UNABLE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
BLOCK = 1 << 24


def reserve(path: Path, size: int) -> None:
    """Make a file of zeros that has all of its room: a memory map on a disk that fills up later ends the process.

    Asked of the system where it can be; elsewhere, as on macOS, zeros are written.

    Raises:
        UserError: the disk has too little room, or cannot be written; nothing is left of the file then.
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
        if error.errno in UNABLE:
            return False
        raise
    return True
