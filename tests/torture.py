"""Kill runs at random moments, go on with them, and count what was lost.

python -m tests.torture --kills 60        some minutes; the suite runs a short one

Three kinds of kill, all by SIGKILL: of pre-training at any moment, of pre-training while a file is being written, and
of preprocessing at any moment. After each kill every file that is there must be whole, and the run goes on until it is
killed again or done. A run that ends otherwise than one that was never killed counts as lost.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.processes import start
from tests.scans import lung, write_scan
from utils.atomic import TEMPORARY_SUFFIX
from utils.checkpoints import read_checkpoint

ANY_MOMENT, WRITING, PREPROCESSING = "pre-training", "writing", "preprocessing"
PAIRS, SCANS = 9, 2


@dataclass
class Report:
    """What happened."""

    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys((ANY_MOMENT, WRITING, PREPROCESSING), 0))
    resumes: int = 0
    runs: int = 0
    lost: list[str] = field(default_factory=list)
    half_written: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)

    def table(self) -> str:
        """One line a number."""
        kills = ", ".join(f"{number} of {kind}" for kind, number in self.kills.items())
        return "\n".join([
            f"kills                    {sum(self.kills.values())} ({kills})",
            f"resumes                  {self.resumes}",
            f"runs ended as unbroken   {self.runs}",
            f"runs lost                {len(self.lost)} {self.lost or ''}",
            f"files half written       {len(self.half_written)} {self.half_written or ''}",
            f"temporary files left     {len(self.left_over)} {self.left_over or ''}",
        ])  # fmt: skip


def is_writing(output: Path) -> bool:
    """Whether a file is being written just now."""
    return any(output.glob(f".*{TEMPORARY_SUFFIX}")) or any(output.glob(f"state/.*{TEMPORARY_SUFFIX}"))


def find_half_written(output: Path) -> list[str]:
    """The files that are there and cannot be read whole."""
    readers: dict[str, Callable[[Path], object]] = {
        ".pt": read_checkpoint, ".json": lambda p: json.loads(p.read_text()), ".npy": np.load,
        ".png": lambda p: Image.open(p).load(),
    }  # fmt: skip
    broken = []
    for path in output.rglob("*"):
        if path.suffix in readers and not path.name.startswith("."):
            try:
                readers[path.suffix](path)
            except Exception as error:
                broken.append(f"{path}: {error}")
    return broken


def wait_for_the_moment(
    process: ForkServerProcess, kind: str, output: Path, rng: random.Random, longest: float
) -> None:
    """Until it is time to kill, or the process is done."""
    deadline = time.monotonic() + rng.uniform(0, longest)
    while time.monotonic() < deadline and process.is_alive():
        time.sleep(0.002)
    if kind == WRITING:
        while process.is_alive() and not is_writing(output):
            time.sleep(0.0005)
        time.sleep(rng.uniform(0, 0.2))


def run_with_kills(
    program: str, options: Callable[[], list[str]], output: Path, report: Report, *, kinds: list[str],
    rng: random.Random, longest: float, most: int,
) -> bool:  # fmt: skip
    """A run that is killed up to ``most`` times and goes on each time; True when it came to its end."""
    output.mkdir()
    killed = 0
    while True:
        process = start(program, options(), output / "log.txt")
        kind = rng.choice(kinds)
        if killed < most:
            wait_for_the_moment(process, kind, output, rng, longest)
            process.kill()
        process.join()
        if process.exitcode == 0:
            break
        if process.exitcode != -9:
            report.lost.append(f"{output}: status {process.exitcode}, see its log.txt")
            return False
        killed += 1
        report.kills[kind] += 1
        report.resumes += 1
        report.half_written += find_half_written(output)
    report.left_over += map(str, output.rglob(f".*{TEMPORARY_SUFFIX}"))
    return True


def training_options(folder: Path, output: Path, rng: random.Random) -> list[str]:
    """A run of three epochs of two steps that saves after each."""
    fixed = [
        "--n",
        "luna",
        "--d",
        "3",
        "--b",
        "4",
        "--ratio",
        "1.0",
        "--epochs",
        "2",
        "--device",
        "cpu",
        "--lr",
        "0.01",
    ]
    often = ["--save_minutes", "0", "--log_every", "1", "--resume", "auto", "--workers", str(rng.choice([0, 0, 1]))]
    lists = ["--lists", str(folder / "lists")]
    return ["--data", str(folder / "crops"), "--output", str(output), *lists, *fixed, *often]


def preprocessing_options(folder: Path, output: Path, rng: random.Random) -> list[str]:
    """Sixteen pairs of each scan."""
    small = ["--input_rows", "16", "--input_cols", "24", "--input_deps", "8", "--scale", "16"]
    return ["--data", str(folder / "luna"), "--save", str(output), *small, "--workers", str(rng.choice([1, 1, 2]))]


def make_data(folder: Path) -> None:
    """Crop pairs and scans of random numbers, tiny."""
    rng = np.random.default_rng(0)
    (folder / "crops" / "subset0").mkdir(parents=True)
    for i in range(PAIRS):
        np.save(folder / f"crops/subset0/scan_global_{i}.npy", rng.random((2, 8, 16, 8), dtype=np.float32))
        np.save(folder / f"crops/subset0/scan_local_{i}.npy", rng.random((6, 8, 8, 8), dtype=np.float32))
    (folder / "luna" / "subset0").mkdir(parents=True)
    for i in range(SCANS):
        write_scan(folder / "luna" / "subset0" / f"{i}.mhd", lung((60, 110, 100), seed=i), spacing=(1.4, 1.3, 1.1))


def same_weights(a: Path, b: Path) -> bool:
    """Whether two runs ended with the same weights, bit for bit."""
    name = "pcrlv2_luna_pretask_1.0_2.pt"
    first, second = (read_checkpoint(folder / name)["state_dict"] for folder in (a, b))
    return all(torch.equal(first[key], second[key]) for key in first)


def same_crops(a: Path, b: Path) -> bool:
    """Whether two folders hold the same crops."""
    first, second = (sorted(path.relative_to(folder) for path in folder.rglob("*.npy")) for folder in (a, b))
    return first == second and all(np.array_equal(np.load(a / name), np.load(b / name)) for name in first)


def torture(folder: Path, *, kills: int, seed: int = 0, most: int = 12) -> Report:
    """Runs that are killed, until there were ``kills`` kills; two of three of them of pre-training.

    Args:
        folder: empty; data and runs go there.
        kills: at least so many.
        seed: of the moments.
        most: kills of one run, after which it may end.
    """
    make_data(folder)
    rng, report = random.Random(seed), Report()
    programs = [
        ("main", training_options, same_weights, [ANY_MOMENT, WRITING], 6.0, kills - kills // 3),
        ("luna_preprocess", preprocessing_options, same_crops, [PREPROCESSING], 1.2, kills // 3),
    ]  # fmt: skip
    for program, make_options, same, kinds, longest, share in programs:
        unbroken = folder / f"{program}_unbroken"
        settings = {"kinds": kinds, "rng": rng, "longest": longest}

        def one(output: Path, most: int, program=program, make_options=make_options, settings=settings) -> bool:
            options = lambda: make_options(folder, output, rng)  # noqa: E731
            return run_with_kills(program, options, output, report, most=most, **settings)

        if not one(unbroken, 0):
            return report
        number = 0
        while sum(report.kills[kind] for kind in kinds) < share and not report.lost:
            output, number = folder / f"{program}_{number}", number + 1
            if not one(output, min(most, share)):
                break
            if same(unbroken, output):
                report.runs += 1
            else:
                report.lost.append(f"{output}: other results than {unbroken}")
    return report


def main() -> int:
    """Kill, count, tell."""
    parser = argparse.ArgumentParser(description="Kill runs at random moments, go on with them, count what was lost.")
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="torture_") as folder:
        report = torture(Path(folder), kills=options.kills, seed=options.seed)
        print(report.table())
        for output in {line.partition(":")[0] for line in report.lost}:
            log = Path(output) / "log.txt"
            print(log.read_text()[-2000:] if log.exists() else "", file=sys.stderr)
    return 1 if report.lost or report.half_written or report.left_over else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
