"""A cache on disk of all images of a list, shrunk once and memory-mapped, so that no epoch decodes a PNG."""

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
from data.readers.grey_levels import FROM_FILE
from utils.atomic import whole_file
from utils.distributed import shared_store
from utils.errors import UserError
from utils.main_first import main_first
from utils.progress import progress, say
from utils.reserve import reserve
from utils.workers import read_with_workers, start_worker

# Incremented when the same files would give other pixels, so that images of older versions are cached again.
VERSION = 2
# Images between two writes to the disk; at most this many are repeated after a process is killed.
FLUSH_EVERY = 1000
MISSING, BROKEN = 0, -1
# Files are checked in chunks by several threads, since each check may wait for a network file system.
CHECK_CHUNK, CHECK_THREADS = 5000, 16


class Maps(NamedTuple):
    """The memory-mapped files of a cache of n images."""

    pixels: np.memmap
    """uint8, n size size: each image in the upper left corner."""
    sizes: np.memmap
    """int32, n 2: height and width; 0 where not cached yet, −1 where the image is broken."""
    files: np.memmap
    """int64, n + 1 2: size in bytes and modification time in ns of each image's file; last row ``VERSION``, 0."""


class CachedImages(ImageFiles):
    """:class:`ImageFiles` read from a memory map that has a uint8 square of side ``size`` for each image.

    The cache's files are named by list, size and how images are read, so that a folder can hold several caches: the
    files of :class:`Maps`, and ``.whole``, which exists when all images are cached. An image is identified by its name
    in the list and its file's size and modification time. Each start checks all files and caches changed images again;
    the check takes about 10 µs a file on a local disk, 1.5 minutes for ten million. A data set may thus be moved, or
    copied with its times (``cp -a``, ``rsync -a``); a copy with new times is cached again. A change during a run is
    noticed by the next run.

    Args:
        files: the images.
        folder: the folder of the cache.
        size: the longest side of a cached image, pixels; larger images are shrunk to it.
    """

    def __init__(self, files: ImageFiles, folder: str | Path, *, size: int) -> None:
        super().__init__(files.folders, files.names, files.folder_of, spec=files.spec._replace(max_side=size))
        self.folder, self.size = Path(folder), size
        changed = [self.spec.intensity] * (self.spec.intensity != FROM_FILE) + ["inverted"] * self.spec.invert
        self.stem = "_".join([self.fingerprint, str(size), *changed])

    def file(self, ending: str) -> Path:
        """Path of one of the cache's files."""
        return self.folder / f"{self.stem}.{ending}"

    def fill(self, *, workers: int, is_main: bool = True) -> "CachedImages":
        """Cache images that are missing or have changed; processes other than the main one wait until it has done so.

        Returns:
            The data set itself.

        Raises:
            UserError: the folder cannot be written, its disk has too little space, or the main process failed.
        """
        main_first(shared_store(), partial(self._update, workers), what=f"cache {self.stem}", is_main=is_main)
        if not self.file("whole").exists():
            raise UserError(
                f"--cache: expected {self.file('whole')}, which the main process wrote, found none; give a folder "
                "that all machines share"
            )
        return self

    def _update(self, workers: int) -> None:
        try:
            outdated, why = self._find_outdated()
            if not len(outdated) and self.file("whole").exists():
                return
            self.folder.mkdir(parents=True, exist_ok=True)
            self._check_space()
            maps = self._maps("r+")
            self.file("whole").unlink(missing_ok=True)
            if len(outdated):
                first = first_names([self.names[int(i)] for i in outdated[: SHOWN + 1]])
                say(f"--cache: {len(outdated)} of {len(self)} images {why}, and are cached again ({first})")
                maps.sizes[outdated] = MISSING
                maps.sizes.flush()
            maps.files[-1] = VERSION, 0
            self._cache_missing(maps, workers)
        except OSError as error:
            raise UserError(f"--cache: cannot write {self.folder}: {error.strerror or error}") from error
        with whole_file(self.file("whole"), "w"):
            pass

    def _find_outdated(self) -> tuple[np.ndarray, str]:
        """Indices of cached images whose file has changed or that another version cached; and the reason."""
        if not all(self.file(ending).exists() for ending in ("pixels", "sizes")):
            return np.zeros(0, dtype=int), ""
        cached = self._map("sizes", "r")[:, 0] != MISSING
        files = self._map("files", "r") if self.file("files").exists() else None
        if files is None or files[-1, 0] != VERSION:
            return np.flatnonzero(cached), "were cached by another version of this program"
        if cached.any():
            cached &= (files[:-1] != self._check_files()).any(axis=1)
        return np.flatnonzero(cached), "changed since they were cached"

    def _check_files(self) -> np.ndarray:
        """int64, n 2: size in bytes and modification time in ns of each image's file; 0 where there is none."""
        starts = range(0, len(self), CHECK_CHUNK)
        with ThreadPoolExecutor(CHECK_THREADS) as pool:
            checked = progress(
                pool.map(self._check_chunk, starts), name="cache: checking for changed images", unit="image",
                total=len(self), units_each=CHECK_CHUNK,
            )  # fmt: skip
            return np.concatenate(list(checked))

    def _check_chunk(self, start: int) -> np.ndarray:
        folders, chunk = [str(folder) for folder in self.folders], range(start, min(start + CHECK_CHUNK, len(self)))
        return np.array(
            [_size_and_time(f"{folders[self.folder_of[i]]}/{self.names[i]}") for i in chunk], dtype=np.int64
        )

    def _cache_missing(self, maps: Maps, workers: int) -> None:
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
                _flush(made, maps)
        _flush(made, maps)

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

    def _check_space(self) -> None:
        """Refuse a disk with too little space before any is used, since a full disk would hinder other programs too."""
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
        """The maps, opened once per process."""
        if "_opened" not in self.__dict__:
            self._opened = self._maps("r")
        return self._opened

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        maps = self.opened
        height, width = (int(side) for side in maps.sizes[index])
        if height <= 0:  # Reading the file raises its error.
            return super().__getitem__(index)
        return (torch.from_numpy(np.array(maps.pixels[index, :height, :width])).unsqueeze(0),)


def _size_and_time(path: str | Path) -> tuple[int, int]:
    """Size in bytes and modification time in ns of a file; 0, 0 where there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116, twice as fast as Path.stat, and there may be millions
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


class _Shrunk(torch.utils.data.Dataset):
    """The images to cache: (index, its file's size and time, uint8 H W or None where broken)."""

    def __init__(self, images: CachedImages, todo: np.ndarray) -> None:
        self.images, self.todo = images, todo

    def __len__(self) -> int:
        return len(self.todo)

    def __getitem__(self, position: int) -> tuple[int, tuple[int, int], np.ndarray | None]:
        index = int(self.todo[position])
        file = _size_and_time(
            self.images.path(index)
        )  # before reading: a change meanwhile is then noticed by the next run
        try:
            (image,) = ImageFiles.__getitem__(self.images, index)
        except (UserError, OSError):
            return index, file, None
        return index, file, image[0].numpy()


def _flush(made: dict[int, tuple[int, int]], maps: Maps) -> None:
    """Write images to the disk, then the sizes, which mark them as cached; empties ``made``."""
    maps.pixels.flush()
    maps.files.flush()
    for index, size in made.items():
        maps.sizes[index] = size
    maps.sizes.flush()
    made.clear()
