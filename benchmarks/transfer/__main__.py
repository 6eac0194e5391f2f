"""Does pre-training help? On phantoms with a known answer, against a random encoder, and with parts left out.

An encoder pre-trained with the labels of other phantoms shows what there is to be won at all.

python -m benchmarks.transfer [--out DIR] [--workers N] [--device cuda --images N --epochs N --size N ...]
"""

import json
import os
from argparse import BooleanOptionalAction
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import torch

from benchmarks.transfer.encoders import RANDOM
from benchmarks.transfer.report import summarize, table, write_report
from benchmarks.transfer.run import run_all
from benchmarks.transfer.settings import OPTIMIZERS, Settings
from engine.precision import Precision
from utils.arguments import OneLineParser, number
from utils.atomic import whole_file
from utils.errors import UsageError, run_command
from utils.optional import import_optional

# The processes side by side have one thread each.
os.environ.setdefault("OMP_NUM_THREADS", "1")

LEAST = {"size": 64, "local_size": 32, "batch": 2, "epochs": 0, "seed": 0, "valid": 4, "test": 4, "supervised": 2}
SETTINGS = "settings.json"


def parse_arguments(arguments: Sequence[str] | None = None) -> tuple[Settings, int]:
    """Settings and the number of processes."""
    parser = OneLineParser(prog="python -m benchmarks.transfer", description="Does pre-training help?")
    parser.add_argument("--out", type=Path, default=Path("runs/transfer"), help="folder; a run there is gone on with")
    parser.add_argument("--workers", type=number(int, 1, 256), default=2, help="processes side by side")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--amp", action=BooleanOptionalAction, default=Settings.amp, help="mixed precision")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default=Settings.optimizer, help="of pre-training")
    parser.add_argument("--lr", type=number(float, 0, 10, open_low=True), default=Settings.lr, help="of pre-training")
    for field in fields(Settings):
        if field.type is int:
            least = LEAST.get(field.name, 1)
            parser.add_argument(f"--{field.name}", type=number(int, least, 10**8), default=field.default, help="number")
    values = vars(parser.parse_args(arguments))
    if values["size"] % 32 or values["local_size"] % 32:
        parser.error("--size and --local_size: expected multiples of 32, which the encoder shrinks images by")
    workers = values.pop("workers")
    # Asked for once, so that it is said once where there is no mixed precision.
    values["amp"] = Precision.choose(torch.device(values["device"]), amp=values["amp"]).dtype != torch.float32
    return Settings(**values), workers


def claim(settings: Settings) -> None:
    """Results of other settings are never mixed with these.

    Raises:
        UsageError: the folder holds a run of other settings.
    """
    values = {name: value for name, value in vars(settings).items() if name not in ("out", "device")}
    text = json.dumps(values, default=list)
    settings.out.mkdir(parents=True, exist_ok=True)
    file = settings.out / SETTINGS
    if file.exists() and file.read_text("utf-8") != text:
        raise UsageError(f"--out: {settings.out} holds a run of other settings ({file}); give another folder")
    with whole_file(file, "w") as new:
        new.write(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Pre-train, read out, tell."""
    settings, workers = parse_arguments(arguments)
    import_optional("sklearn", "benchmarks.transfer")
    import_optional("matplotlib", "benchmarks.transfer")
    claim(settings)
    rows = summarize(run_all(settings, workers), RANDOM)
    write_report(settings.out, rows)
    print(table(rows))
    return 0


if __name__ == "__main__":
    run_command(main)
