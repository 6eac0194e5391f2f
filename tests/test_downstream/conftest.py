"""Data that tests of several tasks share."""

import csv

import numpy as np
import pytest

from tests.scans import lung, write_scan

HEADER = ["seriesuid", "coordX", "coordY", "coordZ", "class"]


def write_table(path, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])


@pytest.fixture(scope="session")
def luna(tmp_path_factory):
    """Nine scans of subset 0 to 8 with two nodules and five false positives each; voxels are no cubes."""
    root = tmp_path_factory.mktemp("luna")
    rows = []
    for i in range(9):
        name, rng = f"1.3.6.{i}", np.random.default_rng(i)
        volume = lung((20, 40, 50), seed=i)
        (root / f"subset{i}").mkdir()
        for k in range(7):
            x, y, z = rng.integers((8, 8, 4), (42, 32, 16))
            if k < 2:
                volume[z - 1 : z + 2, y - 2 : y + 3, x - 2 : x + 3] = 50
            rows.append([name, -100 + 0.8 * x, 30 + 0.9 * y, -50 + 1.5 * z, int(k < 2)])
        write_scan(root / f"subset{i}" / f"{name}.mhd", volume, spacing=(0.8, 0.9, 1.5), origin=(-100.0, 30.0, -50.0))
    write_table(root / "candidates_V2.csv", rows)
    return root
