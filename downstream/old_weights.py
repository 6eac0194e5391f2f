"""The network of fine-tuned weights: by their record or, of weights without one, by ``run.json`` beside and options."""

import json
from pathlib import Path
from typing import Any

from data.catalog.chest import FINDINGS
from data.catalog.labels import CHEXPERT_FINDINGS
from data.datasets.brats import BRATS_REGIONS, BRATS_SUFFIXES, MODALITIES
from data.datasets.candidates import CUBE
from data.datasets.lits import LITS_REGIONS
from data.datasets.segmentation import CROPS
from data.preprocess import PRETRAINED, Preprocessing
from data.readers.geometry import SPACING
from data.readers.grey_levels import FROM_FILE
from data.readers.volumes import CT, PERCENTILES
from downstream.tuned import RUN, TunedNetwork, read_tuned
from models.encoders import FIRST_CONVS
from utils.checkpoints import read_checkpoint
from utils.errors import UsageError, UserError
from utils.options import CLASSIFICATION, DEFAULTS, SEGMENTATION, Options

DESCRIBING = (
    "n", "d", "task", "labels", "classes", "crop", "norm", "skips", "intensity", "spacing", "invert", "image_size",
    "global_size",
)  # fmt: skip
"""Options that a record replaces."""
OF_BRATS: dict[str, Any] = {
    "exclusive": False, "norm": "gn", "channels": len(MODALITIES), "suffixes": BRATS_SUFFIXES
}  # fmt: skip
FINDINGS_OF = {"chest": FINDINGS, "chexpert": CHEXPERT_FINDINGS}


def tuned_of(options: Options) -> TunedNetwork:
    """Return the network of ``--weight``.

    Raises:
        UsageError: an option was typed although the weights have a record.
        UserError: the file cannot be read; or it has no record, and options that are needed are missing.
    """
    typed = {name: getattr(options, name) for name in DESCRIBING if getattr(options, name) != DEFAULTS[name]}
    network = read_tuned(str(options.weight))
    if network is None:
        values = DEFAULTS | _stored_options(Path(str(options.weight)).parent / RUN) | typed
        return _without_record(values, str(options.weight))
    if typed:
        raise UsageError(f"--{next(iter(typed))}: {options.weight} has a record of how it was fine-tuned; leave it out")
    return network


def _stored_options(path: Path) -> dict[str, Any]:
    """Return the describing options of the run that wrote the weights; none where its ``run.json`` is missing."""
    if not path.exists():
        return {}
    try:
        stored = json.loads(path.read_text("utf-8"))["options"]
        return {name: stored[name] for name in DESCRIBING if name in stored and stored.get("phase") == "finetune"}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: expected the record of a run, it is damaged ({error})") from None


def _without_record(values: dict[str, Any], weights: str) -> TunedNetwork:
    dataset, dim, classifies = values["n"], values["d"], _is_classifier(weights)
    solid = CLASSIFICATION if classifies else SEGMENTATION
    task = CLASSIFICATION if dataset in FINDINGS_OF else solid if dim == 3 else values["task"]
    missing = {
        "--n and --d": dataset == "luna" and not classifies,
        f"--task {CLASSIFICATION} or {SEGMENTATION}": dataset == "folder" and task is None,
        "--labels with all its classes": dataset == "folder" and task == CLASSIFICATION and not values["labels"],
        "--classes": dataset == "folder" and task == SEGMENTATION and not values["classes"],
    }
    if any(missing.values()):
        raise UserError(
            f"{weights}: expected a record of how it was fine-tuned, it has none; put {RUN} of its run beside it, or "
            f"give {', '.join(option for option, lacks in missing.items() if lacks)} and what else its run was given"
        )
    if dim == 3 and task == CLASSIFICATION:
        return _volume_classifier(values, dataset)
    if task == CLASSIFICATION:
        size = (values["global_size"],) * 2
        intensity = values["intensity"] or FROM_FILE
        reading = Preprocessing(2, size, intensity, image_size=values["image_size"], invert=values["invert"])
        return TunedNetwork(task, dataset, tuple(FINDINGS_OF.get(dataset) or values["labels"]), reading)
    return _segmenter(values, dataset, dim)


def _is_classifier(weights: str) -> bool:
    """Whether weights are those of a 3D classifier."""
    names = read_checkpoint(weights).get("state_dict", {})
    return "head.weight" in names and f"encoder.{FIRST_CONVS[0]}" in names


def _volume_classifier(values: dict[str, Any], dataset: str) -> TunedNetwork:
    """Return the network of nodule candidates, or of the labels of whole volumes."""
    if dataset == "luna":
        reading = PRETRAINED[3]._replace(window=tuple(values["crop"] or CUBE))
        return TunedNetwork(CLASSIFICATION, dataset, ("nodule",), reading)
    window, intensity = tuple(values["crop"] or PRETRAINED[3].window), values["intensity"] or CT
    reading = Preprocessing(3, window, intensity, values["spacing"] or SPACING)
    return TunedNetwork(CLASSIFICATION, dataset, tuple(values["labels"]), reading)


def _segmenter(values: dict[str, Any], dataset: str, dim: int) -> TunedNetwork:
    regions = BRATS_REGIONS if dataset == "brats" else LITS_REGIONS
    names, mask_values = (tuple(r.name for r in regions), tuple(r.mask_value for r in regions))
    if dataset == "folder":
        mask_values = tuple(range(1, values["classes"] + 1))
        names = ("foreground",) if len(mask_values) == 1 else tuple(f"class_{value}" for value in mask_values)
    window = (values["global_size"],) * 2 if dim == 2 else tuple(values["crop"] or CROPS[dataset])
    if dim == 3 and values["intensity"] == PERCENTILES:
        raise UsageError(f"--intensity {PERCENTILES} is not for segmentation, give minmax or ct")
    intensity = "ct" if dataset == "lits" or values["intensity"] == "ct" else "minmax"
    reading = Preprocessing(dim, window, intensity, whole=True, image_size=values["image_size"])
    network = OF_BRATS if dataset == "brats" else {"exclusive": True, "norm": "bn"}
    network = network | ({"norm": values["norm"]} if values["norm"] else {})
    return TunedNetwork(
        SEGMENTATION, dataset, names, reading, mask_values=mask_values, skips=values["skips"], **network
    )  # fmt: skip
