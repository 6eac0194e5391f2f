"""Writes many files that are valid once a last file exists: each atomically, with one sync for all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from utils.atomic import temporary_name, write_error, writing


class FileGroup:
    """Files of one folder that are all complete if the file ``last`` exists.

    After a kill each file is complete or absent, as with :func:`utils.atomic.whole_file`. After a power cut this holds
    only for files written before :meth:`sync`, which takes a fraction of the time of an fsync for each file.

    Args:
        last: the file to write with ``whole_file`` after :meth:`sync`, which also removes the temporary files of killed
            processes.
    """

    def __init__(self, last: Path) -> None:
        self.temporary, self.paths = temporary_name(last), list[Path]()

    @contextlib.contextmanager
    def file(self, path: Path) -> Iterator[IO[bytes]]:
        """Open a temporary file that becomes ``path`` when the block succeeds.

        Raises:
            UserError: the folder cannot be written, or the disk is full.
        """
        with writing(path, self.temporary) as track:
            with open(self.temporary, "wb") as file:
                yield track(file)
            self.temporary.replace(path)
        self.paths.append(path)

    def sync(self) -> None:
        """Wait until all files are on the disk (fsync).

        Raises:
            UserError: a file could not be written to the disk.
        """
        for path in self.paths:
            try:
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
            except OSError as error:
                raise write_error(path, error) from error
