"""Phantoms to compare encoders on where there is no data: sizes with which two CPU cores end in minutes."""

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from data.phantoms.dataset import make_ct, make_xrays
from utils.errors import UserError

SEED = 42
PREPROCESS = Path(__file__).parents[2] / "luna_preprocess.py"


class Phantoms(NamedTuple):
    """A phantom data set and the options of ``main.py`` that suit it."""

    n: str
    size: int
    """Number of images or scans."""
    common: str
    pretraining: str
    finetuning: str


PHANTOMS = {
    2: Phantoms(
        "chest", 600, "--global_size 64 --b 32 --amp --workers 0", "--local_size 32 --picture_every 1000",
        "--epochs 20",
    ),
    3: Phantoms(
        "luna", 24, "--b 8 --amp --workers 0", "--b 4 --swaps 12 --picture_every 1000", "--crop 32 32 16 --epochs 10"
    ),
}  # fmt: skip
# Pixels: twice the side of a view, since views are parts of an image.
SIDE = 128


def make_phantoms(d: int, folder: Path) -> str:
    """Make the phantom data set unless it is there; returns the folder to pre-train on."""
    count = PHANTOMS[d].size
    if d == 2:
        make_xrays(folder, count, SEED, size=SIDE)
        return str(folder)
    make_ct(folder, count, SEED)
    crops = folder.with_name("crops")
    shape = ("--input_rows", "32", "--input_cols", "32", "--input_deps", "16", "--scale", "4", "--workers", "1")
    if subprocess.run([sys.executable, PREPROCESS, "--data", folder, "--save", crops, *shape]).returncode:
        raise UserError(f"--out: no crops of the phantoms in {folder} could be cut; give another folder")
    return str(crops)
