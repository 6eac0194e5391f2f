"""Many files that count once a last one is there: whole as each is, and put on the disk together."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from utils.atomic import temporary_name, write_error, writing


class FileGroup:
    """Files of one folder, of which a reader of ``last`` may take for granted that they are there.

    Each is whole or not there at all after a kill, as :func:`utils.atomic.whole_file` makes them. After a power cut
    that holds from :meth:`sync` on only, which costs a fraction of putting each on the disk when it is written.

    Args:
        last: the file that is written with ``whole_file`` after :meth:`sync`; what a killed process leaves goes when it
            is.
    """

    def __init__(self, last: Path) -> None:
        self.temporary, self.paths = temporary_name(last), list[Path]()

    @contextlib.contextmanager
    def file(self, path: Path) -> Iterator[IO[bytes]]:
        """Open a file that takes its place when the block ends well.

        Raises:
            UserError: the folder cannot be written, or the disk is full.
        """
        with writing(path, self.temporary) as watch:
            with open(self.temporary, "wb") as file:
                yield watch(file)
            self.temporary.replace(path)
        self.paths.append(path)

    def sync(self) -> None:
        """Put the files on the disk.

        Raises:
            UserError: the disk fails.
        """
        for path in self.paths:
            try:
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
            except OSError as error:
                raise write_error(path, error) from error
