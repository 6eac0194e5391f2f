"""A cache of volumes that are classified or probed, as they are before windows are cut, in a folder."""

from pathlib import Path

import numpy as np

from data.datasets.prepared_files import PreparedFiles
from data.preprocess import Preprocessing, load_volume
from data.readers.volumes import Source

# Increased when the same files give other volumes than before, so that volumes in older caches are prepared again.
VERSION = 1


class VolumeCache:
    """Resampled volumes in a folder: a window then needs only its own bytes.

    Args:
        folder: where they are stored, see :class:`data.datasets.prepared_files.PreparedFiles`.
        reading: how volumes are read; not their windows.
    """

    def __init__(self, folder: str | Path, reading: Preprocessing) -> None:
        self.reading = reading
        settings = ("volume", VERSION, reading.intensity, reading.spacing)
        self.files = PreparedFiles(folder, settings=settings, fields=("volume",), what=("volume", "volumes"))

    def note_outdated(self, volumes: dict[str, Source]) -> None:
        """Report on stderr the volumes that were prepared from other files, with other settings or otherwise."""
        self.files.note_outdated({name: [source] for name, source in volumes.items()})

    def __call__(self, name: str, source: Source) -> np.ndarray:
        """Return :func:`data.preprocess.load_volume` of a file, which is read and stored first if it is not there."""
        (volume,) = self.files.get(name, [source], lambda: [load_volume(source, self.reading)])
        return volume
