"""Measure the start of main.py with millions of names, and the memory of loader workers over epochs.

python -m benchmarks.speed.startup LIST    print seconds and GB of one start as JSON
"""

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.speed.made_up import write_xrays
from benchmarks.speed.results import BenchmarkSettings, Measurement, Result
from benchmarks.speed.timing import medians, memory_gb, run_program
from data.catalog.file_index import FileIndex
from data.catalog.lists import read_names
from data.catalog.names import NameList
from data.datasets.images import ImageFiles
from data.loader import Loader

NAMES, QUICK_NAMES = 10_000_000, 1000
LABELS = " 0" * 14
LINES_AT_A_TIME = 100_000
# The loader whose workers' memory is measured: names, batch size and epochs.
LOADER_NAMES, QUICK_LOADER_NAMES, BATCH, EPOCHS = 200_000, 200, 1000, 8
# Epochs after which the memory kept by allocators, in arenas of 1 MB or more, no longer grows.
SETTLED = 6
SIDE = 32


def write_list(path: Path, names: int) -> None:
    """Write a list in the published format: ``00000042_003.png 0 0 0 ...``."""
    with open(path, "w") as file:
        for start in range(0, names, LINES_AT_A_TIME):
            numbers = range(start, min(start + LINES_AT_A_TIME, names))
            file.write("".join(f"{i:08d}_{i % 13:03d}.png{LABELS}\n" for i in numbers))


def start(path: Path) -> dict[str, float]:
    """Measure from the first import to the first keys of an epoch: seconds and GB.

    Every listed file counts as found; none is written, since the time to list them depends on the file system.
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


class RepeatedFiles(ImageFiles):
    """Many names for a few files."""

    def __init__(self, files: ImageFiles, names: NameList) -> None:
        super().__init__(files.folders, names, files.folder_of)
        self.files = files

    def path(self, index: int) -> Path:
        assert self.names[index]
        return self.files.path(index % len(self.files))


class WorkerMemory(NamedTuple):
    """Memory of the largest loader worker, MB."""

    own: float
    """Pages not shared with another process, after the last epoch."""
    growth: float
    """Growth after the first ``SETTLED`` epochs."""


def worker_memory(settings: BenchmarkSettings) -> WorkerMemory:
    """Measure the memory of loader workers over some epochs with many names.

    Growth includes all anonymous pages, since a page shared with the main process becomes the worker's own when the
    main process writes to it.
    """
    files = write_xrays(settings.folder / "images", 4, SIDE)
    names = NameList.of(f"{i:08d}.png" for i in range(QUICK_LOADER_NAMES if settings.quick else LOADER_NAMES))
    batch = len(names) // 4 if settings.quick else BATCH
    loader = Loader(RepeatedFiles(files, names), batch_size=batch, workers=2, seed=0)
    used = []
    for epoch in range(EPOCHS):
        for _ in loader.batches(epoch):
            pass
        used.append([1000 * memory_gb(worker.pid, "RssAnon") for worker in _workers(loader)])
    growth = max(last - settled for settled, last in zip(used[SETTLED - 1], used[-1], strict=True))
    return WorkerMemory(max(own_memory(worker.pid) for worker in _workers(loader)), growth)


def own_memory(pid: int) -> float:
    """Memory of a process not shared with another, MB."""
    return 1000 * sum(memory_gb(pid, field, "smaps_rollup") for field in ("Private_Dirty", "Private_Clean"))


def _workers(loader: Loader) -> Any:
    return loader.loader._iterator._workers  # type: ignore[union-attr]


def measure(settings: BenchmarkSettings) -> list[Result]:
    """Measure time and memory of a start, and the growth of workers."""
    names = QUICK_NAMES if settings.quick else NAMES
    path = settings.folder / "list.txt"
    write_list(path, names)
    runs: list[dict[str, float]] = []

    def one() -> float:
        runs.append(json.loads(run_program(["-m", "benchmarks.speed.startup", path]).output))
        return runs[-1]["import"] + runs[-1]["list"]

    (seconds,) = medians(one, repeats=min(3, settings.repeats))
    imports = statistics.median(run["import"] for run in runs)
    memory = worker_memory(settings)
    what = f"start with a list of {names:,} names"
    return [
        Measurement("startup", what, "s", seconds, at_most=10),
        Measurement("startup", "of which imports", "s", imports),
        Measurement("startup", f"{what}, memory", "GB", max(run["gb"] for run in runs), at_most=2),
        Measurement("startup", f"a loader worker's own memory after {EPOCHS} epochs", "MB", memory.own),
        # Allocators vary by about 100 kB.
        Measurement("startup", f"its growth after the first {SETTLED}", "MB", memory.growth, at_most=1),
    ]  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(start(Path(sys.argv[1]))))
