"""A memory map of all images of a list, shrunk once, so that no epoch decodes a PNG."""

import math
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from data.catalog.joins import SHOWN, first_names
from data.datasets.images import ImageFiles
from utils.atomic import whole_file
from utils.distributed import shared_store
from utils.errors import UserError
from utils.main_first import main_first
from utils.progress import progress, say
from utils.reserve import reserve
from utils.workers import read_with_workers, start_worker

# Changed when the same images would give other pixels, so that those of older versions are made anew.
VERSION = 2
# Images between two moments at which what was made is put on the disk; a killed process repeats so many at most.
FLUSH_EVERY = 1000
MISSING, BROKEN = 0, -1
# Files are looked at so many at a time by each of so many threads, since each look may wait for a network's disk.
LOOKED_AT_ONCE, LOOKING = 5000, 16


class Maps(NamedTuple):
    """The files of a cache, in memory."""

    pixels: np.memmap
    """uint8, n size size: each image in the upper left corner."""
    sizes: np.memmap
    """int32, n 2: height and width, 0 where not made yet, −1 where broken."""
    files: np.memmap
    """int64, n + 1 2: bytes and modification time in ns of the file that each was made of; last ``VERSION``, 0."""


class CachedImages(ImageFiles):
    """:class:`ImageFiles` out of a memory map: one uint8 square of side ``size`` an image, of which it fills a part.

    Its files are named by list and size, so that a folder can hold several caches: those of :class:`Maps`, and
    ``.whole``, which is there when all are made. Images are known by their name in the list and their file's size and
    modification time. At each start all files are looked at, and images that have changed are made anew: some 10 µs
    each, or a minute and a half for ten million, on a local disk. A data set may thus be moved, or copied with its
    times (``cp -a``, ``rsync -a``); one copied without them is cached anew. What changes while a run uses it is noticed
    by the next one.

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
        """Make what is missing or has changed, or, where another process ``makes`` it, wait for that.

        Returns:
            the data set itself.

        Raises:
            UserError: the folder cannot be written, or its disk has too little room; or another process failed.
        """
        main_first(shared_store(), partial(self._update, workers), what=f"cache {self.stem}", is_main=makes)
        if not self.file("whole").exists():
            raise UserError(
                f"--cache: expected {self.file('whole')}, which the main process made, there is none; give a folder "
                "that all machines share"
            )
        return self

    def _update(self, workers: int) -> None:
        try:
            outdated, why = self._find_outdated()
            if not len(outdated) and self.file("whole").exists():
                return
            self.folder.mkdir(parents=True, exist_ok=True)
            self._check_room()
            maps = self._maps("r+")
            self.file("whole").unlink(missing_ok=True)
            if len(outdated):
                first = first_names([self.names[int(i)] for i in outdated[: SHOWN + 1]])
                say(f"--cache: {len(outdated)} of {len(self)} images {why}, and are made anew ({first})")
                maps.sizes[outdated] = MISSING
                maps.sizes.flush()
            maps.files[-1] = VERSION, 0
            self._make(maps, workers)
        except OSError as error:
            raise UserError(f"--cache: cannot write {self.folder}: {error.strerror or error}") from error
        with whole_file(self.file("whole"), "w"):
            pass

    def _find_outdated(self) -> tuple[np.ndarray, str]:
        """The images that were made of another file than the one that is there now, or by another version; and why."""
        if not all(self.file(ending).exists() for ending in ("pixels", "sizes")):
            return np.zeros(0, dtype=int), ""
        made = self._map("sizes", "r")[:, 0] != MISSING
        files = self._map("files", "r") if self.file("files").exists() else None
        if files is None or files[-1, 0] != VERSION:
            return np.flatnonzero(made), "were made by another version of this program"
        if made.any():
            made &= (files[:-1] != self._look_at_files()).any(axis=1)
        return np.flatnonzero(made), "changed since they were made"

    def _look_at_files(self) -> np.ndarray:
        """int64, n 2: bytes and modification time in ns of each image's file; 0 where there is none."""
        starts = range(0, len(self), LOOKED_AT_ONCE)
        with ThreadPoolExecutor(LOOKING) as pool:
            parts = progress(
                pool.map(self._look_at_some, starts), name="cache: looking for images that changed", unit="image",
                total=len(self), units_each=LOOKED_AT_ONCE,
            )  # fmt: skip
            return np.concatenate(list(parts))

    def _look_at_some(self, start: int) -> np.ndarray:
        folders, some = [str(folder) for folder in self.folders], range(start, min(start + LOOKED_AT_ONCE, len(self)))
        return np.array([_look_at(f"{folders[self.folder_of[i]]}/{self.names[i]}") for i in some], dtype=np.int64)

    def _make(self, maps: Maps, workers: int) -> None:
        todo = np.flatnonzero(maps.sizes[:, 0] == MISSING)
        images = read_with_workers(partial(self._open_loader, todo, workers), len(todo), workers=workers)
        made: dict[int, tuple[int, int]] = {}
        for index, file, image in progress(images, name=f"cache {self.file('pixels')}", unit="image", total=len(todo)):
            maps.files[index] = file
            if image is None:
                made[index] = (BROKEN, BROKEN)
            else:
                height, width = made[index] = tuple(image.shape)
                maps.pixels[index, :height, :width] = image
            if len(made) == FLUSH_EVERY:
                _keep(made, maps)
        _keep(made, maps)

    def _open_loader(self, todo: np.ndarray, workers: int, made: int, deaths: int) -> DataLoader:
        return DataLoader(_Shrunk(self, todo[made:]), batch_size=None, num_workers=workers, worker_init_fn=start_worker)

    def _maps(self, mode: str) -> Maps:
        return Maps(*(self._map(ending, mode) for ending in Maps._fields))

    def _map(self, ending: str, mode: str) -> np.memmap:
        n, path = len(self), self.file(ending)
        shape = {"pixels": (n, self.size, self.size), "sizes": (n, 2), "files": (n + 1, 2)}[ending]
        dtype = np.dtype({"pixels": np.uint8, "sizes": np.int32, "files": np.int64}[ending])
        expected = math.prod(shape) * dtype.itemsize
        if mode == "r+" and not path.exists():
            try:
                reserve(path, expected)
            except UserError as error:
                raise UserError(f"--cache: {error}") from error
        if path.stat().st_size != expected:
            raise UserError(f"{path}: expected {expected} bytes, it has {path.stat().st_size}; remove {self.stem}*")
        return np.memmap(path, dtype=dtype, mode=mode, shape=shape)  # type: ignore[call-overload]

    def _check_room(self) -> None:
        """Before any of it is taken: a disk that is nearly full is no use to anyone else either."""
        if self.file("pixels").exists():
            return
        needed, free = len(self) * self.size**2, shutil.disk_usage(self.folder).free
        if needed > free:
            raise UserError(
                f"--cache: {len(self)} images of {self.size}² pixels need {needed / 1e9:.1f} GB, {self.folder} has "
                f"{free / 1e9:.1f} GB free; give a smaller --cache_size or another folder"
            )

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_opened"}

    @property
    def opened(self) -> Maps:
        """The maps, opened once a process."""
        if "_opened" not in self.__dict__:
            self._opened = self._maps("r")
        return self._opened

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        maps = self.opened
        height, width = (int(side) for side in maps.sizes[index])
        if height <= 0:  # The file itself says best what is wrong with it.
            return super().__getitem__(index)
        return (torch.from_numpy(np.array(maps.pixels[index, :height, :width])).unsqueeze(0),)


def _look_at(path: str | Path) -> tuple[int, int]:
    """Bytes and modification time in ns of a file; 0 where there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116, half the time that a Path takes, and there may be millions
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


class _Shrunk(torch.utils.data.Dataset):
    """The images still to make: (index, its file's size and time, uint8 H W, or None for a broken one)."""

    def __init__(self, images: CachedImages, todo: np.ndarray) -> None:
        self.images, self.todo = images, todo

    def __len__(self) -> int:
        return len(self.todo)

    def __getitem__(self, place: int) -> tuple[int, tuple[int, int], np.ndarray | None]:
        index = int(self.todo[place])
        file = _look_at(self.images.path(index))  # before it is read: what changes meanwhile is made anew next time
        try:
            (image,) = ImageFiles.__getitem__(self.images, index)
        except (UserError, OSError):
            return index, file, None
        return index, file, image[0].numpy()


def _keep(made: dict[int, tuple[int, int]], maps: Maps) -> None:
    """Put images on the disk, then the word that they are there; empties ``made``."""
    maps.pixels.flush()
    maps.files.flush()
    for index, size in made.items():
        maps.sizes[index] = size
    maps.sizes.flush()
    made.clear()
