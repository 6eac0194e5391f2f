"""The options of ``main.py``: one small typed frozen object, made from the command line and nowhere else."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from utils.arguments import OneLineParser, nearest_multiples, number

DATASETS_OF_DIMENSION = {2: ("chest", "chexpert", "folder"), 3: ("luna", "brats", "lits", "folder")}
LISTS = Path(__file__).parent.parent / "train_val_txt"


@dataclass(frozen=True)
class Options:
    """Every option of ``main.py``; what each means is said once, by ``--help``."""

    data: str
    output: str
    model: str
    phase: str
    n: str
    d: int
    b: int
    epochs: int
    lr: float
    momentum: float
    weight_decay: float
    ratio: float
    seed: int
    amp: bool
    gpus: tuple[int, ...] | None
    device: str | None
    workers: int
    encoder_weights: str
    weight: str | None
    uncertain: str
    crop: tuple[int, ...] | None
    norm: str | None
    skips: bool
    classes: int
    intensity: str
    save_masks: bool
    init: str | None
    resume: str | None
    save_minutes: float
    max_bad: float
    lists: str
    global_size: int
    local_size: int
    image_size: int
    cache: str | None
    cache_size: int
    compile: bool
    log_every: int
    picture_every: int
    probe_every: int
    probe_images: int
    probe_neighbours: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name, as checkpoints store them."""
        values = asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


# What may differ when a run is resumed: where things lie, what computes them and how often they are said.
MAY_CHANGE = frozenset({
    "data", "output", "lists", "device", "gpus", "workers", "resume", "init", "save_minutes", "max_bad",
    "compile", "log_every", "picture_every", "encoder_weights", "weight",
    # Of a fine-tuning the labels themselves are compared.
    "uncertain", "classes", "save_masks",
    # They look, and change nothing.
    "probe_every", "probe_images", "probe_neighbours",
})  # fmt: skip


# What not every phase uses.
PHASES = ("pretask", "finetune", "probe")
OF_PHASES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys((
        "momentum", "weight_decay", "encoder_weights", "init", "local_size", "cache_size", "picture_every",
        "probe_every", "probe_images",
    ), ("pretask",)),
    **dict.fromkeys(("epochs", "lr", "resume", "save_minutes", "log_every"), ("pretask", "finetune")),
    **dict.fromkeys(("weight", "crop", "uncertain"), ("finetune", "probe")),
    **dict.fromkeys(("norm", "skips", "classes", "intensity", "save_masks"), ("finetune",)),
    "probe_neighbours": ("pretask", "probe"),
}  # fmt: skip
# What pre-training uses when it probes.
OF_PROBE_EVERY = ("probe_images", "probe_neighbours", "uncertain")
# What only some data sets use.
OF_DATASETS = {
    "uncertain": ("chexpert",),
    "norm": ("brats", "lits", "folder"),
    "skips": ("brats", "lits", "folder"),
    "classes": ("folder",),
    "intensity": ("folder",),
    "save_masks": ("brats", "lits", "folder"),
    # The others' labels are not with what they pre-train on.
    "probe_every": ("chest", "chexpert"),
}
# The data sets that pre-train, and those whose images are segmented.
PRETRAINED = ("chest", "chexpert", "luna")
SEGMENTED = ("brats", "lits", "folder")


def fixed_options(options: Options) -> dict[str, Any]:
    """The options that must be the same when a run is resumed."""
    fixed = {name: value for name, value in options.as_dict().items() if name not in MAY_CHANGE}
    return fixed | {"cache": options.cache is not None}


def _indices(text: str) -> tuple[int, ...]:
    try:
        indices = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected GPU indices such as 0,1, got {text!r}") from None
    if min(indices) < 0 or len(set(indices)) < len(indices):
        raise argparse.ArgumentTypeError(f"expected different indices from 0 on, got {text!r}")
    return indices


def build_parser() -> argparse.ArgumentParser:
    """The command line of ``main.py``. Prefixes are refused: ``--weight`` must never mean ``--weight_decay``."""
    parser = OneLineParser(
        prog="main.py",
        description="Pre-train an encoder with PCRLv2, on chest X-rays (--d 2) or chest CT (--d 3).",
    )
    _add_method(parser.add_argument_group("what is trained, as published"))
    _add_views(parser.add_argument_group("data and views"))
    _add_machine(parser.add_argument_group("machine"))
    _add_run(parser.add_argument_group("run"))
    _add_probe(parser.add_argument_group("probes of frozen features: k nearest neighbours and a linear one"))
    return parser


def _add_method(group: argparse._ArgumentGroup) -> None:
    whole, rate = number(int, 1, 10**9), number(float, 0, 1e6)
    group.add_argument("--data", required=True, help="data set folder")
    group.add_argument("--output", required=True, help="folder for weights, state and records of the run")
    group.add_argument("--model", default="pcrlv2", choices=["pcrlv2"], help="method")
    group.add_argument("--phase", default="pretask", choices=PHASES, help="what to do")
    group.add_argument("--n", "--dataset", default="luna", choices=[*PRETRAINED, *SEGMENTED], help="data set")
    group.add_argument("--d", "--dim", default=3, type=int, choices=[2, 3], help="dimensions")
    group.add_argument("--b", "--batch_size", default=16, type=whole, help="batch size over all GPUs and processes")
    group.add_argument("--epochs", default=100, type=number(int, 0, 10**6), help="last epoch; 0 to this are run")
    group.add_argument("--lr", default=1e-3, type=rate, help="peak learning rate")
    group.add_argument("--momentum", default=0.9, type=number(float, 0, 1), help="momentum of SGD")
    group.add_argument("--weight_decay", default=1e-4, type=rate, help="weight decay of SGD")
    group.add_argument(
        "--ratio", default=0.8, type=number(float, 0, 1),
        help="share of the list to pre-train on, the rest fine-tunes; 0: all of it fine-tunes",
    )  # fmt: skip
    group.add_argument("--seed", default=42, type=number(int, 0, 2**62), help="what all randomness comes from")
    on_off = argparse.BooleanOptionalAction
    group.add_argument("--amp", default=False, action=on_off, help="mixed precision: bf16, else fp16")
    group.add_argument(
        "--encoder_weights", default="imagenet", choices=["imagenet", "none"],
        help="what the 2D encoder starts from: fetched once from a hub, or random",
    )  # fmt: skip
    group.add_argument(
        "--weight",
        metavar="FILE",
        help="finetune and probe: .pt of this program or of the authors; or none: from scratch",
    )
    group.add_argument(
        "--uncertain", default="ones", choices=["ones", "zeros", "ignore"],
        help="chexpert's labels: what an uncertain one counts as",
    )  # fmt: skip
    _add_segmentation(group)


def _add_segmentation(group: argparse._ArgumentGroup) -> None:
    on_off = argparse.BooleanOptionalAction
    group.add_argument(
        "--crop", nargs=3, type=number(int, 8, 1024), metavar=("X", "Y", "Z"),
        help="finetune and probe, 3D: voxels that the network sees at once, multiples of 8; unset: brats 112 128 112, "
        "lits 128 128 64, folder 96 96 96, luna 48 48 32",
    )  # fmt: skip
    group.add_argument(
        "--norm",
        choices=["bn", "gn", "in"],
        help="segmentation, 3D: normalisation (batch, group, instance); unset: gn for brats, else bn as pre-trained",
    )
    group.add_argument(
        "--skips", default=True, action=on_off, help="segmentation: whether the decoder sees the shallower features"
    )
    group.add_argument(
        "--classes", default=0, type=number(int, 0, 255),
        help="folder: masks hold 0 to this, with 1 anything above 0 is the one class; 0: what the masks hold",
    )  # fmt: skip
    group.add_argument(
        "--intensity", default="minmax", choices=["minmax", "ct"],
        help="folder, 3D: minmax scales each volume from its least to its largest value; ct takes HU, resampled to "
        "1 mm and scaled as for pre-training",
    )  # fmt: skip
    group.add_argument(
        "--save_masks", default=False, action=on_off, help="segmentation: keep the predicted masks of the test part"
    )


def _add_views(group: argparse._ArgumentGroup) -> None:
    size = number(int, 32, 4096)
    group.add_argument("--lists", default=str(LISTS), help="folder of the lists of names")
    group.add_argument("--global_size", default=224, type=size, help="2D: side of a global view in pixels, times of 32")
    group.add_argument("--local_size", default=96, type=size, help="2D: side of a local view in pixels, times of 32")
    group.add_argument(
        "--image_size", default=0, type=number(int, 0, 65536),
        help="2D: longest side that images are shrunk to when read, 0 for as they are; changes what views see",
    )  # fmt: skip
    group.add_argument(
        "--cache", help="2D: folder for a memory map of all images, made once; changes what views see; segmentation: "
        "folder for prepared cases, made once, so that a crop need not read its whole case"
    )  # fmt: skip
    group.add_argument("--cache_size", default=512, type=size, help="2D: longest side of images in --cache")
    group.add_argument(
        "--max_bad", default=0.01, type=number(float, 0, 1), help="share of broken samples above which the run ends"
    )


def _add_machine(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--gpus", type=_indices, help="GPU indices for DataParallel; unset: of 0,1,2,3 those that exist")
    group.add_argument("--device", help="cpu, cuda or cuda:INDEX; unset: CUDA when there is one")
    group.add_argument("--workers", default=4, type=number(int, 0, 1024), help="loader processes")
    on_off = argparse.BooleanOptionalAction
    group.add_argument("--compile", default=False, action=on_off, help="compile the network (one device a process)")


def _add_run(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--resume", help="auto: go on with the run in --output, if there is one; or the FILE of a state")
    group.add_argument("--init", metavar="FILE", help="weights to start from: .pt of this program or of the authors")
    minutes = number(float, 0, 10**6)
    group.add_argument("--save_minutes", default=10.0, type=minutes, help="minutes between states within an epoch")
    whole = number(int, 1, 10**6)
    group.add_argument("--log_every", default=20, type=whole, help="steps between readings of the losses")
    group.add_argument("--picture_every", default=10, type=whole, help="epochs between pictures of restorations")


def _add_probe(group: argparse._ArgumentGroup) -> None:
    whole = number(int, 0, 10**6)
    group.add_argument(
        "--probe_every", default=0, type=whole,
        help="pretask on chest and chexpert: epochs between probes of the encoder, 0 for none; changes nothing else",
    )  # fmt: skip
    group.add_argument(
        "--probe_images", default=2000, type=number(int, 8, 10**9),
        help="with --probe_every: labelled images that a probe looks at; it learns from three quarters of them",
    )  # fmt: skip
    group.add_argument(
        "--probe_neighbours", default=20, type=number(int, 1, 10**6), help="nearest neighbours that count"
    )


def parse_options(arguments: Sequence[str] | None = None) -> Options:
    """The options typed; a wrong one ends the program with one line and status 2."""
    parser = build_parser()
    values = vars(parser.parse_args(arguments))
    options = Options(**{**values, "crop": values["crop"] and tuple(values["crop"])})
    expected = DATASETS_OF_DIMENSION[options.d]
    if options.n not in expected:
        dimension = next(d for d, names in DATASETS_OF_DIMENSION.items() if options.n in names)
        parser.error(f"--n {options.n} goes with --d {dimension}, got --d {options.d}")
    _check_phase(parser, options)
    for name in ("global_size", "local_size"):
        _check_multiple(parser, name, getattr(options, name), of=32)
    if options.d == 3:
        cache = ("cache",) if options.phase == "pretask" else ()
        for name in ("global_size", "local_size", "image_size", "cache_size", "encoder_weights", *cache):
            if getattr(options, name) != parser.get_default(name):
                parser.error(f"--{name} is for --d 2; the sizes of 3D crops are set by luna_preprocess.py and --crop")
    if options.phase == "pretask" and options.cache and options.image_size:
        parser.error("--image_size: the size of images in --cache is set by --cache_size; give one of the two")
    if options.init and options.resume not in (None, "auto"):
        parser.error("--init starts a run from weights, --resume goes on with one: give one of them")
    return options


def _check_phase(parser: argparse.ArgumentParser, options: Options) -> None:
    """Options of other phases are refused by name."""
    phase = options.phase
    for name, phases in OF_PHASES.items():
        typed, probes = getattr(options, name) != parser.get_default(name), name in OF_PROBE_EVERY
        if typed and phase not in phases and not (probes and options.probe_every):
            parser.error(f"--{name} is for --phase {' or '.join(phases)}")
        if typed and phase == "pretask" and probes and not options.probe_every:
            parser.error(f"--{name} goes with --probe_every, which is 0")
    if phase != "finetune" and options.n not in PRETRAINED:
        parser.error(f"--n {options.n} is for --phase finetune")
    if phase == "pretask" and not options.ratio:
        parser.error("--ratio: expected a number above 0 to 1, got 0; with 0 nothing pre-trains")
    if phase != "pretask" and options.weight is None:
        scratch = "to start from scratch" if phase == "finetune" else "for a random encoder"
        parser.error(f"--phase {phase}: expected --weight FILE, or --weight none {scratch}")
    for name, datasets in OF_DATASETS.items():
        if getattr(options, name) != parser.get_default(name) and options.n not in datasets:
            parser.error(f"--{name} is for --n {' or '.join(datasets)}, got --n {options.n}")
    if phase != "pretask" and options.cache and options.n not in SEGMENTED:
        parser.error(f"--cache is for --phase pretask, or --n {' or '.join(SEGMENTED)}, got --n {options.n}")
    _check_volumes(parser, options)


def _check_volumes(parser: argparse.ArgumentParser, options: Options) -> None:
    """What only 3D fine-tuning uses."""
    for name in ("crop", "norm", "intensity"):
        if options.d == 2 and getattr(options, name) != parser.get_default(name):
            parser.error(f"--{name} is for --d 3")
    for side in options.crop or ():
        _check_multiple(parser, "crop", side, of=8)


def _check_multiple(parser: argparse.ArgumentParser, name: str, side: int, *, of: int) -> None:
    if side % of:
        parser.error(
            f"--{name}: expected multiples of {of}, which the encoder shrinks by, got {side}; give "
            f"{nearest_multiples(side, of)}"
        )


def option_names() -> list[str]:
    """Names of all options, for the test that finds dead ones."""
    return [field.name for field in fields(Options)]
