"""Measure luna_preprocess.py as a whole, compared with SimpleITK's reading and resampling of the same scan.

python -m benchmarks.speed.preprocess SCAN    print the yardstick: seconds of reading and resampling
"""

import shutil
import sys
import time
from pathlib import Path

import SimpleITK as sitk

from benchmarks.speed.made_up import write_scans
from benchmarks.speed.results import BenchmarkSettings, Measurement, Result
from benchmarks.speed.timing import Run, medians, run_program

SIZE, SPACING = (512, 512, 260), (0.7, 0.7, 1.25)  # voxels and mm, x y z
QUICK_SIZE, QUICK_SPACING = (120, 110, 60), (1.5, 1.3, 2.0)
PAIRS, QUICK_PAIRS = 16, 2
# Enough scans to make the start of the workers, half a second, negligible.
SCANS, QUICK_SCANS = 16, 2


def read_and_resample(path: str) -> float:
    """Seconds that SimpleITK takes to read a scan and to resample it to 1 mm, with one thread."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    start = time.perf_counter()
    scan = sitk.ReadImage(path)
    size = [int(n * s + 0.5) for n, s in zip(scan.GetSize(), scan.GetSpacing(), strict=True)]
    sitk.Resample(
        scan, size, sitk.Transform(), sitk.sitkLinear, scan.GetOrigin(), (1.0, 1.0, 1.0), scan.GetDirection(), 0,
        scan.GetPixelID(),
    )  # fmt: skip
    return time.perf_counter() - start


def measure(settings: BenchmarkSettings) -> list[Result]:
    """Measure the whole process, its memory, and two workers compared with one."""
    quick = settings.quick
    size, spacing = (QUICK_SIZE, QUICK_SPACING) if quick else (SIZE, SPACING)
    pairs, scans = (QUICK_PAIRS, QUICK_SCANS) if quick else (PAIRS, SCANS)
    one, many, crops = (settings.folder / name for name in ("one", "many", "crops"))
    write_scans(one, 1, size=size, spacing=spacing)
    write_scans(many, scans, size=size, spacing=spacing)

    def preprocess(data: Path, workers: int) -> Run:
        shutil.rmtree(crops, ignore_errors=True)
        return run_program(
            ["luna_preprocess.py", "--data", data, "--save", crops, "--scale", str(pairs), "--workers", str(workers)]
        )

    def yardstick() -> float:
        return float(run_program(["-m", "benchmarks.speed.preprocess", one / "subset0" / "scan0.mhd"]).output)

    peaks = []

    def ours() -> float:
        run = preprocess(one, 1)
        peaks.append(run.peak_gb)
        return run.seconds

    theirs_s, ours_s = medians(yardstick, ours, repeats=settings.repeats)
    two_s, one_s = medians(
        lambda: preprocess(many, 2).seconds, lambda: preprocess(many, 1).seconds, repeats=min(3, settings.repeats)
    )
    what = f"a scan of {'×'.join(map(str, size))} voxels, {pairs} pairs, whole process"
    return [
        Measurement("preprocess", what, "s", ours_s, "SimpleITK read + resample", theirs_s, at_most=1.6),
        Measurement("preprocess", "peak memory of a worker", "GB", max(peaks), at_most=1.2),
        Measurement("preprocess", f"{scans} scans, 2 workers", "s", two_s, "1 worker", one_s, at_least=1.7),
    ]


if __name__ == "__main__":
    print(read_and_resample(sys.argv[1]))
