"""The options of ``main.py``: one small typed frozen object, made from the command line and nowhere else.

Each option is declared once, in :class:`Options`, with the phases, data sets and dimension that use it and whether it
may change when a run is resumed. The parser, the refusals and ``docs/options.md`` follow from that.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from utils.arguments import OneLineParser, nearest_multiples, number, path
from utils.declared import add_options, declarations, defaults, option, switch

PRETASK, FINETUNE, PROBE, PREDICT, FEATURES = PHASES = ("pretask", "finetune", "probe", "predict", "features")
LEARNING = (PRETASK, FINETUNE, PROBE)
"""Phases that learn from the samples of a data set; the others look at whatever files are in a folder."""


class DataSet(NamedTuple):
    """Where a data set may be used."""

    dims: tuple[int, ...]
    phases: tuple[str, ...]
    segmented: bool = False
    """Whether fine-tuning segments its images."""


DATASETS = {
    "chest": DataSet((2,), (*LEARNING, PREDICT)),
    "chexpert": DataSet((2,), (*LEARNING, PREDICT)),
    "luna": DataSet((3,), (*LEARNING, PREDICT)),
    "brats": DataSet((3,), (PRETASK, FINETUNE, PREDICT), segmented=True),
    "lits": DataSet((3,), (PRETASK, FINETUNE, PREDICT), segmented=True),
    "folder": DataSet((2, 3), PHASES, segmented=True),
}
SEGMENTED = tuple(name for name, dataset in DATASETS.items() if dataset.segmented)
# What --intensity may be, by dimension.
INTENSITIES = {2: ("file", "percentiles", "minmax"), 3: ("minmax", "ct", "percentiles")}
XRAYS = tuple(name for name, dataset in DATASETS.items() if 2 in dataset.dims and PRETASK in dataset.phases)

CLASSIFICATION, SEGMENTATION = "classification", "segmentation"

METHOD, DATA, LABELS = "what is trained, as published", "data and views", "fine-tuning, probes and prediction"
MACHINE, RUN = "machine", "run"
PROBES = "probes of frozen features: k nearest neighbours and a linear one"

LARGEST_SEED = 2**62


def _indices(text: str) -> tuple[int, ...]:
    try:
        indices = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected GPU indices such as 0,1, got {text!r}") from None
    if min(indices) < 0 or len(set(indices)) < len(indices):
        raise argparse.ArgumentTypeError(f"expected different indices from 0 on, got {text!r}")
    return indices


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f"expected names such as PA,AP, got {text!r}")
    return names


_whole, _rate, _share = number(int, 1, 10**9), number(float, 0, 1e6), number(float, 0, 1)
_count, _side = number(int, 0, 10**6), number(int, 32, 4096)
_trained = (PRETASK, FINETUNE)
_evaluated = (FINETUNE, PROBE)
# What weights without a record of how they were fine-tuned need to predict.
_recorded = (FINETUNE, PREDICT)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Every option of ``main.py``; what each means is said once, by its help."""

    data: str = option(METHOD, "data set folder", type=path, may_change=True)
    output: str = option(METHOD, "folder for weights, state and records of the run", type=path, may_change=True)
    model: str = option(METHOD, "method", default="pcrlv2", choices=["pcrlv2"])
    phase: str = option(METHOD, "what to do", default=PRETASK, choices=PHASES)
    n: str = option(METHOD, "data set", default="luna", aliases=("--dataset",), choices=list(DATASETS))
    d: int = option(METHOD, "dimensions", default=3, aliases=("--dim",), type=int, choices=[2, 3])
    b: int = option(
        METHOD, "batch size over all GPUs and processes", default=16, aliases=("--batch_size",), type=_whole
    )  # fmt: skip
    epochs: int = option(METHOD, "last epoch; 0 to this are run", default=100, phases=_trained, type=_count)
    lr: float = option(METHOD, "peak learning rate", default=1e-3, phases=_trained, type=_rate)
    optimizer: str = option(
        METHOD, "sgd as published, or adamw, whose --lr is some 1e-3 and --weight_decay 0.05", default="sgd",
        phases=(PRETASK,), choices=["sgd", "adamw"],
    )  # fmt: skip
    warmup_epochs: float = option(
        METHOD, "epochs, whole or not, over which the learning rate rises to --lr step by step; 0 as published",
        default=0.0, phases=(PRETASK,), type=_rate,
    )  # fmt: skip
    loss_weights: tuple[float, ...] = option(
        METHOD, "what restoration, intermediate restoration, global and local similarity count in the loss; passes "
        "that only terms of weight 0 need are not run", default=(1.0, 1.0, 1.0, 1.0), phases=(PRETASK,), nargs=4,
        type=_rate, metavar=("R", "I", "G", "L"),
    )  # fmt: skip
    momentum: float = option(METHOD, "momentum of SGD", default=0.9, phases=(PRETASK,), type=_share)
    weight_decay: float = option(METHOD, "weight decay", default=1e-4, phases=(PRETASK,), type=_rate)
    ratio: float = option(
        METHOD, "share of the list to pre-train on, the rest fine-tunes; 0: all of it fine-tunes", default=0.8,
        phases=LEARNING, type=_share,
    )  # fmt: skip
    seed: int = option(
        METHOD, "what all randomness comes from", default=42, phases=LEARNING, type=number(int, 0, LARGEST_SEED)
    )  # fmt: skip
    amp: bool = switch(METHOD, "mixed precision: bf16, else fp16", default=False)
    encoder_weights: str = option(
        METHOD, "what the 2D encoder starts from: fetched once from a hub, or random", default="imagenet",
        phases=(PRETASK,), dim=2, may_change=True, choices=["imagenet", "none"],
    )  # fmt: skip

    lists: str | None = option(
        DATA, "folder of the lists of names, missing ones are made there; unset: the first with a list of OUTPUT/lists "
        "of a run that has a state, lists/ beside --weight and train_val_txt/, else made in OUTPUT/lists",
        default=None, phases=LEARNING, type=path, metavar="DIR", may_change=True,
    )  # fmt: skip
    global_size: int = option(DATA, "side of a global view in pixels, times of 32", default=224, dim=2, type=_side)
    local_size: int = option(
        DATA, "side of a local view in pixels, times of 32", default=96, phases=(PRETASK,), dim=2, type=_side
    )  # fmt: skip
    cutout_size: int = option(
        DATA, "side in pixels of the three squares set to 0 in a global view; less for smaller views: 32 in 224 is a "
        "seventh of the side", default=32, phases=(PRETASK,), dim=2, type=number(int, 0, 4096),
    )  # fmt: skip
    swaps: int = option(
        DATA, "swaps of two patches of 8x4x4 voxels in a global crop; fewer for crops smaller than 64x64x32, which 100 "
        "would scramble", default=100, phases=(PRETASK,), dim=3, type=_count,
    )  # fmt: skip
    image_size: int = option(
        DATA, "longest side that images are shrunk to when read, 0 for as they are; changes what views see", default=0,
        dim=2, type=number(int, 0, 65536),
    )  # fmt: skip
    views: tuple[str, ...] | None = option(
        DATA, "folder: views that are used, by the column view of its tables, else by DICOM, as PA,AP; unset: all",
        default=None, phases=LEARNING, datasets=("folder",), dim=2, type=_names, metavar="VIEW,...",
    )  # fmt: skip
    skip: str | None = option(
        DATA, "file of names, one a line, of images or cases to leave out", default=None, phases=LEARNING,
        datasets=dict.fromkeys((*XRAYS, *SEGMENTED)), may_change=True, type=path, metavar="FILE",
    )  # fmt: skip
    invert: bool = switch(
        DATA, "folder: whether black and white of images are exchanged; DICOM's MONOCHROME1 is inverted anyway",
        default=False, datasets=("folder",), dim=2,
    )  # fmt: skip
    intensity: str | None = option(
        DATA, "folder: what becomes black and white; 2D: file (unset) takes DICOM's window and the depth of others, "
        "percentiles those 0.5 and 99.5 of an image's values, minmax the least and largest; 3D segmentation: minmax "
        "(unset; of nnU-Net's layout, unless its channels are named CT) scales each volume from its least to its "
        "largest value, ct takes HU, resampled to 1 mm and scaled as for pre-training; 3D classification, probes and "
        "features: ct, minmax or percentiles (unset: as the crops of --weight, else ct)",
        default=None, datasets=("folder",), choices=sorted({name for names in INTENSITIES.values() for name in names}),
    )  # fmt: skip
    cache: str | None = option(
        DATA, "2D pre-training: folder for a memory map of all images, made once; changes what views see; "
        "segmentation, 3D classification and probes: folder for prepared cases or volumes, made once, so that a crop "
        "need not read all of it",
        default=None, phases=LEARNING, type=path, metavar="DIR",
    )  # fmt: skip
    cache_size: int = option(
        DATA, "longest side of images in --cache", default=512, phases=(PRETASK,), dim=2, type=_side
    )  # fmt: skip
    max_bad: float = option(
        DATA, "share of broken or missing samples above which the run ends", default=0.01, may_change=True, type=_share
    )  # fmt: skip

    weight: str | None = option(
        LABELS, ".pt or .safetensors of this program, or .pt of the authors; or none: from scratch", default=None,
        phases=(*_evaluated, PREDICT, FEATURES),
        may_change=True, type=path, metavar="FILE",
    )  # fmt: skip
    task: str | None = option(
        LABELS, "what a folder's images are for; unset: segmentation with masks/, classification with labels.csv",
        default=None, phases=_recorded, datasets=("folder",), choices=[CLASSIFICATION, SEGMENTATION],
    )  # fmt: skip
    labels: tuple[str, ...] | None = option(
        LABELS, "folder: columns of its labels.csv that are classified, as COVID,EDEMA; unset: every one of 0, 1 and "
        "blank; features: the first one colours the map", default=None, phases=(*_evaluated, PREDICT, FEATURES),
        datasets=("folder",), goes_with="probe_every", type=_names, metavar="COLUMN,...",
    )  # fmt: skip
    uncertain: str = option(
        LABELS, "chexpert's labels: what an uncertain one counts as", default="ones", phases=_evaluated,
        datasets=("chexpert",), goes_with="probe_every", may_change=True, choices=["ones", "zeros", "ignore"],
    )  # fmt: skip
    crop: tuple[int, ...] | None = option(
        LABELS, "voxels that the network sees at once, multiples of 8; unset: brats 112 128 112, lits 128 128 64, "
        "folder 96 96 96, luna 48 48 32; classified and probed volumes, features: as the crops of --weight, else "
        "64 64 32", default=None, phases=(*_evaluated, PREDICT, FEATURES), dim=3, nargs=3, type=number(int, 8, 1024),
        metavar=("X", "Y", "Z"),
    )  # fmt: skip
    spacing: float | None = option(
        LABELS, "classified and probed volumes, features: mm to which they are resampled; unset: that of the crops of "
        "--weight, else 1", default=None, phases=(*_evaluated, PREDICT, FEATURES), datasets=("folder",), dim=3,
        type=number(float, 0.05, 20),
    )  # fmt: skip
    norm: str | None = option(
        LABELS, "segmentation: normalisation (batch, group, instance); unset: gn for brats, else bn as pre-trained",
        default=None, phases=(*_recorded, FEATURES), datasets=SEGMENTED, dim=3, choices=["bn", "gn", "in"],
    )  # fmt: skip
    skips: bool = switch(
        LABELS, "segmentation: whether the decoder sees the shallower features", default=True, phases=_recorded,
        datasets=SEGMENTED,
    )  # fmt: skip
    classes: int = option(
        LABELS, "masks hold 0 to this, with 1 anything above 0 is the one class; 0: what the masks hold", default=0,
        phases=_recorded, datasets=("folder",), may_change=True, type=number(int, 0, 255),
    )  # fmt: skip
    save_masks: bool = switch(
        LABELS, "segmentation: keep the predicted masks of the test split", default=False, phases=(FINETUNE,),
        datasets=SEGMENTED, may_change=True,
    )  # fmt: skip

    test: bool = switch(
        LABELS, "whether the test split is evaluated at the end; without it settings can be chosen on the validation "
        "split alone, and the chosen run be resumed with it", default=True, phases=(FINETUNE,), may_change=True,
    )  # fmt: skip

    gpus: tuple[int, ...] | None = option(
        MACHINE, "GPU indices for DataParallel; unset: of 0,1,2,3 those that exist", default=None, may_change=True,
        type=_indices,
    )  # fmt: skip
    device: str | None = option(
        MACHINE, "cpu, cuda or cuda:INDEX; unset: CUDA when there is one", default=None, may_change=True
    )  # fmt: skip
    workers: int = option(MACHINE, "loader processes", default=4, may_change=True, type=number(int, 0, 1024))
    compile: bool = switch(
        MACHINE, "compile the network (one device a process)", default=False, may_change=True
    )  # fmt: skip
    checkpoint_activations: bool = switch(
        MACHINE, "pre-training with less memory: the backward pass computes activations again; changes no result",
        default=False, phases=(PRETASK,), may_change=True,
    )  # fmt: skip
    graph: bool = switch(
        MACHINE, "one GPU: a step of pre-training is one launch, a CUDA graph, 1.7 times as fast on an H200",
        default=False, phases=(PRETASK,), may_change=True,
    )  # fmt: skip

    check: bool = switch(
        RUN, "read every file once instead of running: what is there, what is left out and why, a contact sheet "
        "OUTPUT/check.png, and status 1 if a run would fail", default=False, may_change=True,
    )  # fmt: skip
    init: str | None = option(
        RUN, "weights to start from: .pt or .safetensors of this program, or .pt of the authors", default=None,
        phases=(PRETASK,), may_change=True, type=path, metavar="FILE",
    )  # fmt: skip
    resume: str | None = option(
        RUN, "auto: resume the run in --output, if there is one; or the FILE of a state", default=None,
        phases=_trained, may_change=True, type=path, metavar="auto|FILE",
    )  # fmt: skip
    save_minutes: float = option(
        RUN, "minutes between states within an epoch", default=10.0, phases=_trained, may_change=True,
        type=number(float, 0, 10**6),
    )  # fmt: skip
    log_every: int = option(
        RUN, "steps between readings of the losses", default=20, phases=_trained, may_change=True,
        type=number(int, 1, 10**6),
    )  # fmt: skip
    picture_every: int = option(
        RUN, "epochs between pictures of restorations", default=10, phases=(PRETASK,), may_change=True,
        type=number(int, 1, 10**6),
    )  # fmt: skip

    probe_every: int = option(
        PROBES, "2D pre-training: epochs between probes of the encoder, 0 for none; changes nothing else", default=0,
        phases=(PRETASK,), datasets=XRAYS, dim=2, may_change=True, type=_count,
    )  # fmt: skip
    probe_images: int = option(
        PROBES, "with --probe_every: labelled images that a probe looks at; it learns from three quarters of them",
        default=2000, phases=(PRETASK,), goes_with="probe_every", may_change=True, type=number(int, 8, 10**9),
    )  # fmt: skip
    probe_neighbours: int = option(
        PROBES, "nearest neighbours that count", default=20, phases=(PRETASK, PROBE), goes_with="probe_every",
        may_change=True, type=number(int, 1, 10**6),
    )  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name, as checkpoints store them."""
        return {name: plain(value) for name, value in asdict(self).items()}


def plain(value: Any) -> Any:
    """The value of an option as JSON and checkpoints store it."""
    return list(value) if isinstance(value, tuple) else value


DECLARED, DEFAULTS = declarations(Options), defaults(Options)


def option_names() -> list[str]:
    """Names of all options."""
    return list(DECLARED)


def fixed_options(options: Options) -> dict[str, Any]:
    """The options that must be the same when a run is resumed."""
    fixed = {name: value for name, value in options.as_dict().items() if not DECLARED[name].may_change}
    # Where a cache lies may change; whether views are cut from one may not.
    return fixed | {"cache": options.cache is not None}


def build_parser() -> OneLineParser:
    """The command line of ``main.py``. Prefixes are refused: ``--weight`` must never mean ``--weight_decay``."""
    parser = OneLineParser(
        prog="main.py",
        description="Pre-train an encoder with PCRLv2, on chest X-rays (--d 2) or chest CT (--d 3).",
    )
    add_options(parser, Options)
    return parser


def parse_options(arguments: Sequence[str] | None = None) -> Options:
    """The options typed; a wrong one ends the program with one line and status 2."""
    parser = build_parser()
    typed = vars(parser.parse_args(arguments))
    values: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in typed.items()}
    options = Options(**values)
    for complaint in (_of_data_set, _of_phases, _of_data_sets, _of_dimensions, _of_sizes, _of_starts):
        if message := complaint(options):
            parser.error(message)
    return options


def _typed(options: Options) -> list[str]:
    """The options that differ from their defaults."""
    return [name for name, default in DEFAULTS.items() if getattr(options, name) != default]


def _of_data_set(options: Options) -> str | None:
    dims = DATASETS[options.n].dims
    return None if options.d in dims else f"--n {options.n} goes with --d {dims[0]}, got --d {options.d}"


def _of_phases(options: Options) -> str | None:
    phase = options.phase
    for name in _typed(options):
        phases, beside = DECLARED[name].phases, DECLARED[name].goes_with
        if phases and phase not in phases and not (beside and getattr(options, beside)):
            return f"--{name} is for --phase {' or '.join(phases)}"
        if beside and phase in DECLARED[beside].phases and not getattr(options, beside):
            return f"--{name} goes with --{beside}, which is 0"
    if phase not in DATASETS[options.n].phases:
        return f"--n {options.n} is for --phase {' or '.join(DATASETS[options.n].phases)}"
    if options.compile and options.checkpoint_activations:
        return "--checkpoint_activations goes without --compile, which chooses by itself what to keep"
    if options.intensity and options.d == 3 and phase == PRETASK:
        return "--intensity: that of 3D pre-training is set by luna_preprocess.py --intensity"
    if phase == PRETASK and not options.ratio:
        return "--ratio: expected a number above 0 to 1, got 0; with 0 nothing pre-trains"
    if phase in (PREDICT, FEATURES) and options.weight in (None, "none"):
        return f"--phase {phase}: expected --weight FILE"
    if phase != PRETASK and options.weight is None:
        scratch = "to start from scratch" if phase == FINETUNE else "for a random encoder"
        return f"--phase {phase}: expected --weight FILE, or --weight none {scratch}"
    return None


def _of_data_sets(options: Options) -> str | None:
    for name in _typed(options):
        datasets = DECLARED[name].datasets
        if datasets and options.n not in datasets:
            return f"--{name} is for --n {' or '.join(datasets)}, got --n {options.n}"
    if options.cache and options.phase != PRETASK and options.n not in SEGMENTED:
        return f"--cache is for --phase pretask, or --n {' or '.join(SEGMENTED)}, got --n {options.n}"
    if options.cache and options.phase == PROBE and options.d == 2:
        return "--cache: probes of X-rays read them as they are; leave it out"
    return None


def _of_dimensions(options: Options) -> str | None:
    flat = "is for --d 2; the sizes of 3D crops are set by luna_preprocess.py and --crop"
    for name in _typed(options):
        dim = DECLARED[name].dim
        if dim is not None and options.d != dim:
            return f"--{name} {flat}" if dim == 2 else f"--{name} is for --d 3"
    if options.intensity and options.intensity not in INTENSITIES[options.d]:
        return f"--intensity {options.intensity} is not for --d {options.d}, give {' or '.join(INTENSITIES[options.d])}"
    if options.cache and options.d == 3 and options.phase == PRETASK:
        return f"--cache {flat}"
    return None


def _of_sizes(options: Options) -> str | None:
    """Sides that the encoder can halve as often as it does."""
    sides = {"global_size": (options.global_size,), "local_size": (options.local_size,), "crop": options.crop or ()}
    for name, lengths in sides.items():
        multiple = 8 if name == "crop" else 32
        for side in lengths:
            if side % multiple:
                return (
                    f"--{name}: expected multiples of {multiple}, which the encoder shrinks by, got {side}; give "
                    f"{nearest_multiples(side, multiple)}"
                )
    return None


def _of_starts(options: Options) -> str | None:
    if options.optimizer != "sgd" and options.momentum != DEFAULTS["momentum"]:
        return f"--momentum is for --optimizer sgd, got --optimizer {options.optimizer}"
    if not any(options.loss_weights):
        return "--loss_weights: expected a weight above 0, got none; nothing would be learnt"
    if options.warmup_epochs > options.epochs + 1:
        return f"--warmup_epochs: expected at most the run's {options.epochs + 1}, got {options.warmup_epochs:g}"
    if options.phase == PRETASK and options.cache and options.image_size:
        return "--image_size: the size of images in --cache is set by --cache_size; give one of the two"
    if options.init and options.resume not in (None, "auto"):
        return "--init starts a run from weights, --resume goes on with one: give one of them"
    return None
