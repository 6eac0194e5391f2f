"""The start of main.py with millions of names, and what loader workers keep from epoch to epoch.

python -m benchmarks.speed.startup LIST    what one start takes: seconds and GB, as JSON
"""

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.speed.figures import BenchmarkSettings, Measurement, Result
from benchmarks.speed.made_up import write_xrays
from benchmarks.speed.timing import medians, memory_gb, run_program
from data.catalog.file_index import FileIndex
from data.catalog.lists import read_names
from data.catalog.names import NameList
from data.datasets.images import ImageFiles
from data.loader import Loader

NAMES, QUICK_NAMES = 10_000_000, 1000
LABELS = " 0" * 14
AT_ONCE = 100_000
# Of the loader that is watched: its names, batches of so many, and epochs.
WATCHED, QUICK_WATCHED, BATCH, EPOCHS = 200_000, 200, 1000, 8
# What allocators keep for the next time, an arena of 1 MB or more at once, has reached its size after so many.
SETTLED = 6
SIDE = 32


def write_list(path: Path, names: int) -> None:
    """A list as the published ones: ``00000042_003.png 0 0 0 ...``."""
    with open(path, "w") as file:
        for start in range(0, names, AT_ONCE):
            numbers = range(start, min(start + AT_ONCE, names))
            file.write("".join(f"{i:08d}_{i % 13:03d}.png{LABELS}\n" for i in numbers))


def start(path: Path) -> dict[str, float]:
    """From the interpreter's first import to the first keys of an epoch, every listed file taken for found.

    Not made are the files themselves: how long a folder of so many takes to be listed is the file system's affair.
    """
    began = time.perf_counter()
    import main  # noqa: F401, what every start imports

    imported = time.perf_counter()
    names = read_names(path)
    index = FileIndex([path.parent], [names])
    listed = index.join(names, source=path)
    assert not len(index.left_over(listed))
    listed = listed.found(max_bad=0)
    dataset = ImageFiles(index.folders, listed.names, listed.folder_of)
    loader = Loader(dataset, batch_size=16, workers=0, seed=0)
    next(iter(loader.order))
    ended = time.perf_counter()
    return {"import": imported - began, "list": ended - imported, "gb": memory_gb("self", "VmHWM")}


class FewFiles(ImageFiles):
    """Many names that all lead to few files."""

    def __init__(self, files: ImageFiles, names: NameList) -> None:
        super().__init__(files.folders, names, files.folder_of)
        self.files = files

    def path(self, index: int) -> Path:
        assert self.names[index]
        return self.files.path(index % len(self.files))


class Held(NamedTuple):
    """What the largest loader worker holds, MB."""

    own: float
    """Pages that it shares with no other process, after the last epoch."""
    growth: float
    """By how much its memory grew from the epochs in which it settled to the last one."""


def worker_memory(settings: BenchmarkSettings) -> Held:
    """Some epochs of a loader over many names.

    Growth is that of all anonymous pages: a page shared with the main process becomes the worker's own as soon as the
    main process writes to it, without any doing of the worker's.
    """
    files = write_xrays(settings.folder / "images", 4, SIDE)
    names = NameList.of(f"{i:08d}.png" for i in range(QUICK_WATCHED if settings.quick else WATCHED))
    batch = len(names) // 4 if settings.quick else BATCH
    loader = Loader(FewFiles(files, names), batch_size=batch, workers=2, seed=0)
    held = []
    for epoch in range(EPOCHS):
        for _ in loader.batches(epoch):
            pass
        held.append([1000 * memory_gb(worker.pid, "RssAnon") for worker in _workers(loader)])
    growth = max(last - settled for settled, last in zip(held[SETTLED - 1], held[-1], strict=True))
    return Held(max(own_memory(worker.pid) for worker in _workers(loader)), growth)


def own_memory(pid: int) -> float:
    """MB that a process shares with no other."""
    return 1000 * sum(memory_gb(pid, field, "smaps_rollup") for field in ("Private_Dirty", "Private_Clean"))


def _workers(loader: Loader) -> Any:
    return loader.loader._iterator._workers  # type: ignore[union-attr]


def measure(settings: BenchmarkSettings) -> list[Result]:
    """Seconds and memory of a start, and what workers grow by."""
    names = QUICK_NAMES if settings.quick else NAMES
    path = settings.folder / "list.txt"
    write_list(path, names)
    runs: list[dict[str, float]] = []

    def one() -> float:
        runs.append(json.loads(run_program(["-m", "benchmarks.speed.startup", path]).output))
        return runs[-1]["import"] + runs[-1]["list"]

    (seconds,) = medians(one, repeats=min(3, settings.repeats))
    imports = statistics.median(run["import"] for run in runs)
    held = worker_memory(settings)
    what = f"start with a list of {names:,} names"
    return [
        Measurement("startup", what, "s", seconds, at_most=10),
        Measurement("startup", "of which imports", "s", imports),
        Measurement("startup", f"{what}, memory", "GB", max(run["gb"] for run in runs), at_most=2),
        Measurement("startup", f"a loader worker's own memory after {EPOCHS} epochs", "MB", held.own),
        # An allocator's luck is some 100 kB.
        Measurement("startup", f"what it grew by after the first {SETTLED}", "MB", held.growth, at_most=1),
    ]  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(start(Path(sys.argv[1]))))
