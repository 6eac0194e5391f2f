"""A memory map of all images of a list, shrunk once, so that no epoch decodes a PNG."""

import os
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from data.datasets.images import ImageFiles
from utils.atomic import whole_file
from utils.errors import UserError
from utils.progress import progress

# Images between two moments at which what was made is put on the disk; a killed process repeats so many at most.
FLUSH_EVERY = 1000
MISSING, BROKEN = 0, -1
POLL_SECONDS = 0.5


class CachedImages(ImageFiles):
    """:class:`ImageFiles` out of a memory map: one uint8 square of side ``size`` an image, of which it fills a part.

    Three files named by list and size, so that a folder can hold several caches: ``.pixels`` (n size size uint8),
    ``.sizes`` (n 2 int32: height and width, 0 where not made yet, −1 where broken), and ``.whole`` when all are made.

    Args:
        files: the images.
        folder: where the cache lies.
        size: images are shrunk so that no side is longer, in pixels.
    """

    def __init__(self, files: ImageFiles, folder: str | Path, *, size: int) -> None:
        super().__init__(files.folders, files.names, files.folder_of, longest=size)
        self.folder, self.size = Path(folder), size
        self.stem = f"{self.fingerprint}_{size}"

    def file(self, ending: str) -> Path:
        """One of the cache's files."""
        return self.folder / f"{self.stem}.{ending}"

    def fill(self, *, workers: int, makes: bool = True) -> "CachedImages":
        """Make what is missing, or, where another process ``makes`` it, wait for that; returns the data set itself.

        Raises:
            UserError: the folder cannot be written, or its disk has too little room.
        """
        while not makes and not self.file("whole").exists():
            time.sleep(POLL_SECONDS)
        if not self.file("whole").exists():
            try:
                self._fill(workers)
            except OSError as error:
                raise UserError(f"--cache: cannot write {self.folder}: {error.strerror or error}") from error
        return self

    def _fill(self, workers: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        pixels, sizes = self._maps("r+")
        todo = np.flatnonzero(sizes[:, 0] == MISSING)
        self._check_room(len(todo))
        jobs = DataLoader(_Shrunk(self, todo), batch_size=None, num_workers=workers)
        made: dict[int, tuple[int, int]] = {}
        for index, image in progress(jobs, name=f"cache {self.file('pixels')}", unit="image"):
            if image is None:
                made[index] = (BROKEN, BROKEN)
            else:
                height, width = made[index] = tuple(image.shape)
                pixels[index, :height, :width] = image
            if len(made) == FLUSH_EVERY:
                _keep(made, pixels, sizes)
        _keep(made, pixels, sizes)
        with whole_file(self.file("whole"), "w"):
            pass

    def _maps(self, mode: str) -> tuple[np.memmap, np.memmap]:
        n = len(self)
        maps = []
        for ending, shape, dtype in (("pixels", (n, self.size, self.size), np.uint8), ("sizes", (n, 2), np.int32)):
            path = self.file(ending)
            if mode == "r+":
                path.touch()
            expected = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
            if mode == "r+" and path.stat().st_size == 0:
                with open(path, "r+b") as file:
                    # All of it now: a map on a disk that fills up later would end the process without a word.
                    os.posix_fallocate(file.fileno(), 0, expected)
            if path.stat().st_size != expected:
                raise UserError(f"{path}: expected {expected} bytes, it has {path.stat().st_size}; remove {self.stem}*")
            maps.append(np.memmap(path, dtype=dtype, mode=mode, shape=shape))  # type: ignore[call-overload]
        return maps[0], maps[1]

    def _check_room(self, images: int) -> None:
        needed, free = images * self.size**2, shutil.disk_usage(self.folder).free
        if needed > free:
            raise UserError(
                f"--cache: {images} images of {self.size}² pixels need {needed / 1e9:.1f} GB, {self.folder} has "
                f"{free / 1e9:.1f} GB free; give a smaller --cache_size or another folder"
            )

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_opened"}

    @property
    def opened(self) -> tuple[np.memmap, np.memmap]:
        """The maps, opened once a process."""
        if "_opened" not in self.__dict__:
            self._opened = self._maps("r")
        return self._opened

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        pixels, sizes = self.opened
        height, width = (int(side) for side in sizes[index])
        if height <= 0:  # The file itself says best what is wrong with it.
            return super().__getitem__(index)
        return (torch.from_numpy(np.array(pixels[index, :height, :width])).unsqueeze(0),)


class _Shrunk(torch.utils.data.Dataset):
    """The images still to make: (index, uint8 H W, or None for a broken one)."""

    def __init__(self, images: CachedImages, todo: np.ndarray) -> None:
        self.images, self.todo = images, todo

    def __len__(self) -> int:
        return len(self.todo)

    def __getitem__(self, place: int) -> tuple[int, np.ndarray | None]:
        index = int(self.todo[place])
        try:
            (image,) = ImageFiles.__getitem__(self.images, index)
        except (UserError, OSError):
            return index, None
        return index, image[0].numpy()


def _keep(made: dict[int, tuple[int, int]], pixels: np.memmap, sizes: np.memmap) -> None:
    """Put images on the disk, then the word that they are there; empties ``made``."""
    pixels.flush()
    for index, size in made.items():
        sizes[index] = size
    sizes.flush()
    made.clear()
