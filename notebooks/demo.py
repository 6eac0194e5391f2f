"""Weights for the notebooks: those that are named, those that run2d.sh and run3d.sh left, or shorter runs of the same.

A notebook imports this file from its own folder; the program's packages can then be imported too.
"""

import csv
import os
import subprocess
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
# Libraries import tqdm, which asks for ipywidgets in a notebook; no bar is shown here.
warnings.filterwarnings("ignore", message="IProgress not found")
RUNS = Path(os.environ.get("PCRLV2_RUNS", ROOT / "runs"))
"""Where the demonstrations leave their weights, and the notebooks what they make."""
STEPS = int(os.environ.get("PCRLV2_STEPS", "40"))
"""Steps in which a notebook trains a network; tests take fewer."""
LOG, CARD = "log.txt", "MODEL_CARD.md"

# As in run3d.sh: 100 swaps would scramble so small a crop, and the restoration of CT weighs little beside similarities.
SMALL_CROPS = ("--input_rows", "32", "--input_cols", "32", "--input_deps", "16", "--scale", "8", "--workers", "2")
SMALL_VIEWS_2D = ("--b", "12", "--global_size", "96", "--local_size", "32", "--encoder_weights", "none")
SETTINGS_3D = ("--b", "4", "--swaps", "12", "--loss_weights", "10", "10", "1", "1", "--optimizer", "adamw")
RATES_3D = ("--lr", "5e-4", "--weight_decay", "0.05")
PRETRAIN = ("--ratio", "1.0", "--workers", "1", "--log_every", "1", "--resume", "auto")


def weights(dim: int) -> Path:
    """Return a file of weights, which is made where there is none.

    The file is the first of these: what the environment variable ``PCRLV2_WEIGHTS_2D`` or ``PCRLV2_WEIGHTS_3D`` names;
    what ``run2d.sh`` or ``run3d.sh`` left in ``runs/``; what a notebook made there before. Else a run as theirs, with
    6 epochs instead of 10 in 2D and 4 instead of 8 in 3D, makes them in about two minutes on 2 CPU cores.

    Args:
        dim: 2 for chest X-rays, 3 for chest CT.

    Raises:
        FileNotFoundError: the environment variable names no file.
        RuntimeError: the run failed.
    """
    variable = f"PCRLV2_WEIGHTS_{dim}D"
    if named := os.environ.get(variable):
        if not Path(named).is_file():
            raise FileNotFoundError(f"{variable}: expected a file of weights, there is none at {named}")
        return Path(named)
    folders = [RUNS / f"demo{dim}d", RUNS / f"notebooks{dim}d"]
    if not (found := _finished(folders)):
        print(f"no weights yet: pre-training for about two minutes; see {LOG} in runs/{folders[-1].name}", flush=True)
        for arguments in commands(dim, folders[-1]):
            run(*arguments, log=folders[-1] / LOG)
        found = _finished(folders)
    return found[0]


def _finished(folders: list[Path]) -> list[Path]:
    """Return the last weights of each finished run; a run writes its card when it has finished."""
    finished = [folder for folder in folders if (folder / CARD).exists()]
    return [max(folder.glob("pcrlv2_*_pretask_*.pt"), key=_epoch) for folder in finished]


def _epoch(path: Path) -> int:
    return int(path.stem.rpartition("_")[2])


def commands(dim: int, folder: Path) -> list[list[str]]:
    """Return what makes the weights in a folder: arguments of the interpreter, in order."""
    phantoms, crops = str(folder / "phantoms"), str(folder / "crops")
    out = ["--output", str(folder)]
    if dim == 2:
        data = ["--d", "2", "--n", "chest", "--data", phantoms, "--epochs", "5", "--lr", "1e-2"]
        return [
            ["-m", "data.phantoms", "--d", "2", "--out", phantoms, "--count", "96"],
            ["main.py", *data, *out, *SMALL_VIEWS_2D, *PRETRAIN],
        ]
    data = ["--d", "3", "--n", "luna", "--data", crops, "--epochs", "3"]
    return [
        ["-m", "data.phantoms", "--d", "3", "--out", phantoms, "--count", "4"],
        ["luna_preprocess.py", "--data", phantoms, "--save", crops, *SMALL_CROPS],
        ["main.py", *data, *out, *SETTINGS_3D, *RATES_3D, "--amp", *PRETRAIN],
    ]


def run(*arguments: str, log: Path) -> None:
    """Run a program of this project, as if typed in its folder: ``run("main.py", "--phase", "features", ...)``.

    Args:
        arguments: of the interpreter.
        log: file to which everything that it prints is appended.

    Raises:
        RuntimeError: it failed; with the last line that it printed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        done = subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        *_, last = ["", *log.read_text(encoding="utf-8").splitlines()]
        raise RuntimeError(f"{arguments[0]} ended with status {done.returncode}: {last} (more in {log})")


def xrays(count: int = 120) -> Path:
    """Return a folder as users have it, of images and ``labels.csv``: X-rays that no demonstration has seen."""
    from data.phantoms.dataset import make_xrays
    from data.phantoms.xray import FINDINGS

    root = RUNS / "xrays"
    make_xrays(root, count, seed=1, size=160)
    with open(root / "Data_Entry_2017.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with open(root / "images" / "labels.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "patient", *FINDINGS])
        for row in rows:
            found = row["Finding Labels"].split("|")
            table.writerow([row["Image Index"], row["Patient ID"], *(int(finding in found) for finding in FINDINGS)])
    return root / "images"
