"""The image cache knows what it holds: images whose files change are made again, all others stay."""

import errno
import os
import shutil
import threading

import numpy as np
import pytest
from PIL import Image
from torch.distributed import HashStore

from data.catalog.names import NameList
from data.datasets import image_cache
from data.datasets.image_cache import CachedImages
from data.datasets.images import ImageFiles
from utils.errors import UserError

NAMES = [f"{i:08d}_000.png" for i in range(7)]


def write(path, value, time_ns=None, shape=(9, 7)):
    """A grey image of one value."""
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.full(shape, value, dtype=np.uint8)).save(path)
    if time_ns is not None:
        os.utime(path, ns=(time_ns, time_ns))


@pytest.fixture
def folder(tmp_path):
    for i, name in enumerate(NAMES):
        write(tmp_path / "images" / name, 10 * i, time_ns=10**18 + i)
    return tmp_path / "images"


def cached(folder, cache=None, size=8):
    files = ImageFiles([folder], NameList.of(NAMES), np.zeros(len(NAMES), dtype=np.uint16))
    return CachedImages(files, cache or folder.parent / "cache", size=size)


@pytest.fixture
def fill(monkeypatch):
    """Fill a cache: (what it serves, the names that were made)."""

    def fill_(images):
        made = []
        read = image_cache._Shrunk.__getitem__

        def noting(self, place):
            made.append(images.names[int(self.todo[place])])
            return read(self, place)

        with monkeypatch.context() as patch:
            patch.setattr(image_cache._Shrunk, "__getitem__", noting)
            images.fill(workers=0)
        with monkeypatch.context() as patch:  # served from the cache, not from the files
            patch.setattr(ImageFiles, "__getitem__", lambda *_: pytest.fail("an image was read from its file"))
            return [int(images[i][0].max()) for i in range(len(images))], made

    return fill_


VALUES = [0, 10, 20, 30, 40, 50, 60]


def test_what_has_not_changed_is_not_made_again(folder, fill, capsys):
    assert fill(cached(folder)) == (VALUES, NAMES)
    assert fill(cached(folder)) == (VALUES, [])
    assert fill(cached(folder, size=5)) == (VALUES, NAMES), "another size is another cache"
    assert "cached again" not in capsys.readouterr().err


CHANGES = {
    "other pixels, later": lambda path: write(path, 77),
    "other pixels, the same time and another size": lambda path: write(path, 77, 10**18 + 3, shape=(50, 40)),
    "other pixels, an earlier time": lambda path: write(path, 77, 10**17),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_image_is_made_anew_and_told(folder, fill, capsys, change):
    fill(cached(folder))
    CHANGES[change](folder / NAMES[3])
    assert fill(cached(folder)) == ([0, 10, 20, 77, 40, 50, 60], [NAMES[3]])
    error = capsys.readouterr().err
    assert f"--cache: 1 of 7 images changed since they were cached, and are cached again ({NAMES[3]})" in error
    assert fill(cached(folder))[1] == []


def test_an_image_that_was_broken_and_is_mended_is_made(folder, fill):
    (folder / NAMES[0]).write_bytes(b"no image")
    cached(folder).fill(workers=0)
    with pytest.raises(UserError, match=NAMES[0]):
        cached(folder).fill(workers=0)[0]
    write(folder / NAMES[0], 5)
    assert fill(cached(folder)) == ([5, *VALUES[1:]], [NAMES[0]])


def test_a_moved_or_copied_data_set_keeps_its_cache_and_another_of_the_same_names_does_not(folder, fill, capsys):
    fill(cached(folder))
    cache = folder.parent / "cache"
    copy = shutil.copytree(folder, folder.parent / "copy", copy_function=shutil.copy2)
    assert fill(cached(copy, cache)) == (VALUES, [])
    other = folder.parent / "other"
    for i, name in enumerate(NAMES):
        write(other / name, 100 + i, time_ns=10**18 + 50 + i)
    assert fill(cached(other, cache)) == ([100, 101, 102, 103, 104, 105, 106], NAMES)
    assert f"7 of 7 images changed since they were cached, and are cached again ({', '.join(NAMES[:5])}, ...)" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("how", ["no record of the files", "another number"])
def test_a_cache_of_another_version_is_made_anew(folder, fill, capsys, monkeypatch, how):
    fill(cached(folder))
    if how == "another number":
        monkeypatch.setattr(image_cache, "VERSION", image_cache.VERSION + 1)
    else:
        next((folder.parent / "cache").glob("*.files")).unlink()
    assert fill(cached(folder)) == (VALUES, NAMES)
    assert (
        "7 of 7 images were cached by another version of this program, and are cached again" in capsys.readouterr().err
    )
    assert fill(cached(folder)) == (VALUES, [])


def test_a_killed_process_is_gone_on_with(folder, fill, monkeypatch):
    monkeypatch.setattr(image_cache, "FLUSH_EVERY", 2)
    keep, kept = image_cache._flush, []

    def kill(made, maps):
        keep(made, maps)
        kept.append(1)
        if len(kept) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(image_cache, "_flush", kill)
        cached(folder).fill(workers=0)
    write(folder / NAMES[1], 99)
    values, made = fill(cached(folder))
    assert values == [0, 99, *VALUES[2:]] and sorted(made) == sorted([NAMES[1], *NAMES[4:]])


def test_a_finished_cache_need_not_be_written(folder, fill, monkeypatch):
    fill(cached(folder))
    monkeypatch.setattr(CachedImages, "_cache_missing", lambda *_: pytest.fail("nothing is to be made"))
    monkeypatch.setattr(np, "memmap", lambda path, mode, np_memmap=np.memmap, **shape: (
        np_memmap(path, mode=mode, **shape) if mode == "r" else pytest.fail("opened for writing")
    ))  # fmt: skip
    assert cached(folder).fill(workers=0)[2][0].max() == 20


@pytest.mark.parametrize("what", ["no such call", "a file system that cannot"])
def test_room_is_taken_without_the_call_that_macos_lacks(folder, fill, monkeypatch, what):
    if what == "no such call":
        monkeypatch.delattr(os, "posix_fallocate")
    else:

        def unable(*_):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

        monkeypatch.setattr(os, "posix_fallocate", unable)
    assert fill(cached(folder)) == (VALUES, NAMES)
    pixels = next((folder.parent / "cache").glob("*.pixels"))
    assert pixels.stat().st_blocks * 512 >= pixels.stat().st_size == 7 * 8 * 8


def test_a_disk_with_too_little_room_is_told_before_any_of_it_is_taken(folder, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 7 * 64 - 1))
    with pytest.raises(UserError, match="--cache: 7 images of 8² pixels need 0.0 GB, .* has 0.0 GB free"):
        cached(folder).fill(workers=0)
    assert not list((folder.parent / "cache").iterdir())
    # Space already taken is not required again: the cache of a killed process continues with little free space.
    monkeypatch.undo()
    cached(folder).fill(workers=0)
    next((folder.parent / "cache").glob("*.whole")).unlink()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 0))
    cached(folder).fill(workers=0)


def fill_together(folder, monkeypatch):
    """Two processes' ``fill``, as threads: the result or the error of the one that waits."""
    store, results = HashStore(), []
    monkeypatch.setattr(image_cache, "shared_store", lambda: store)

    def wait():
        try:
            results.append(cached(folder).fill(workers=0, is_main=False))
        except UserError as error:
            results.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        cached(folder).fill(workers=0)
    except UserError as error:
        results.append(f"main: {error}")
    thread.join(20)
    assert not thread.is_alive()
    return results


def test_other_processes_wait_for_the_one_that_makes_it_and_fail_with_it(folder, monkeypatch):
    (result,) = fill_together(folder, monkeypatch)
    assert result[5][0].max() == 50
    write(folder / NAMES[5], 88)
    (result,) = fill_together(folder, monkeypatch)
    assert result[5][0].max() == 88, "the old pixels were there until the main process compared them"
    shutil.rmtree(folder.parent / "cache")
    (folder.parent / "cache").write_text("a file")
    main, other = sorted(fill_together(folder, monkeypatch))
    assert main.startswith("main: --cache: cannot write") and other == f"the main process failed: {main[6:]}"


def test_a_cache_that_only_the_main_process_sees_is_an_error(folder, monkeypatch):
    monkeypatch.setattr(CachedImages, "_update", lambda *_: None)
    with pytest.raises(UserError, match="give a folder that all machines share"):
        cached(folder).fill(workers=0)
