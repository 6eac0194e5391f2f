"""What goes with weights into other programs: how images become inputs, and where the weights come from."""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.checkpoints import RECORD, read_checkpoint
from utils.provenance import describe_version

RUN = "run.json"
# Options that say where something lay on one machine; of FILES the name is kept.
FOLDERS = ("data", "output", "lists", "cache", "resume", "gpus", "device")
FILES = ("weight", "init", "skip")
# Options that a run's weights and its run.json must share; others may change when a run is resumed.
SAME_RUN = ("model", "phase", "n", "d", "ratio", "seed", "global_size")
# Of the entries of run.json.
COUNTS = ("samples", "validation_samples", "test_samples")
ORIGIN = ("version", "git_revision", "python", "versions", *COUNTS, "list", "match", "status")
# As published: windows by dimension, and the values that become 0 and 1 (grey levels are said by "intensity").
WINDOWS = {2: [224, 224], 3: [64, 64, 32]}
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
HU_WINDOW = [-1000, 1000]
UNKNOWN_CROPS = (
    "as published: the weights do not say how crops were made; if with other options, see manifest.json beside them"
)


def facts_of(weights: str | Path, *, dim: int, channels: int, norm: str) -> dict[str, dict[str, Any]]:
    """Return what is known of a weight file, as plain values in JSON.

    ``opt`` and ``record`` are those of the file, from which this program reads images for it. ``preprocessing`` says
    the same to other programs, and ``provenance`` which program, data and settings made the weights.

    Args:
        weights: a file that :func:`utils.checkpoints.read_checkpoint` reads.
        dim, channels, norm: of the encoder.

    Raises:
        UserError: the file cannot be read.
    """
    content = read_checkpoint(weights)
    opt, record = _options_of(content), content.get(RECORD, {})
    network = {"dimensions": dim, "channels": channels, "norm": norm}
    preprocessing = network | _preprocessing(dim, opt, record.get("reading"))
    provenance = content.get("provenance") or _provenance(Path(weights), content, opt)
    found = {"opt": opt, RECORD: record, "preprocessing": preprocessing, "provenance": provenance}
    return {name: json.loads(json.dumps(value, default=str)) for name, value in found.items() if value}


def portable(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options without the folders and devices of the machine, and files by their names."""
    kept = {name: value for name, value in options.items() if name not in FOLDERS}
    return kept | {name: Path(kept[name]).name for name in FILES if kept.get(name)}


def _options_of(content: Mapping[str, Any]) -> dict[str, Any]:
    options = content.get("opt", {})
    return portable(vars(options) if isinstance(options, argparse.Namespace) else options)


def _preprocessing(dim: int, opt: Mapping[str, Any], reading: Mapping[str, Any] | None) -> dict[str, Any]:
    """Say how images become inputs, by the record of fine-tuned weights, else by the options of pre-training."""
    if reading is None:
        sides = [opt["global_size"]] * 2 if dim == 2 and "global_size" in opt else WINDOWS[dim]
        reading = {"window": sides, "whole": False, "spacing": 1.0, "intensity": "ct" if dim == 3 else "file"}
        reading |= {name: opt[name] for name in ("intensity", "invert", "image_size") if dim == 2 and opt.get(name)}
        if dim == 3:
            crops = opt.get("crops", {})
            reading |= crops if "spacing" in crops else {**crops, "assumed": UNKNOWN_CROPS}
    values = {name: value for name, value in reading.items() if name not in ("dim", "spacing")}
    if dim == 2:
        return values | {"axes": "y x", "grey_scaled_to": [0, 1], "mean": MEAN, "std": STD}
    ct = reading["intensity"] == "ct"
    values |= {"hu_window": HU_WINDOW} if ct else {}
    resampled = ct or not reading["whole"]
    values |= {"spacing_mm": reading["spacing"]} if resampled else {"spacing_mm": "as stored"}
    normalisation = "none" if reading["whole"] else "mean 0, standard deviation 1 of each window"
    return values | {"axes": "x y z", "scaled_to": [0, 1], "normalisation": normalisation}


def _provenance(weights: Path, content: Mapping[str, Any], opt: Mapping[str, Any]) -> dict[str, Any]:
    """Say which program, data and settings made the weights, by the run.json beside them, if it is of their run."""
    known: dict[str, Any] = {"weights": weights.name, "exported_by": describe_version()}
    known |= {name: content[name] for name in ("epoch", "valid_loss") if name in content}
    run = _run_of(weights, opt)
    if run is None:
        print(
            f"{weights}: there is no {RUN} of its run beside it; the export does not say which data and program made "
            "it", file=sys.stderr
        )  # fmt: skip
        return known
    options = portable(run["options"])
    known |= {"program": "PCRLv2", "data_set": options["n"], "settings": options}
    return known | {name: run[name] for name in ORIGIN if name in run}


def _run_of(weights: Path, opt: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the run.json beside weights; None where there is none, or that of another run."""
    run = read_run(weights.parent)
    if run is None:
        return None
    # The best weights of fine-tuning have no options; only the file's name ties them to the run.
    same = all(opt.get(name) == run["options"].get(name) for name in SAME_RUN) if SAME_RUN[0] in opt else (
        weights.name == "best.pt" and run["options"].get("phase") == "finetune"
    )  # fmt: skip
    return run if same else None


def read_run(folder: Path) -> dict[str, Any] | None:
    """Return the run.json of a folder; None where there is none, or it is cut short."""
    try:
        run = json.loads((folder / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return run if isinstance(run, dict) and isinstance(run.get("options"), dict) else None
