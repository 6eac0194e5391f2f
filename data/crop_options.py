"""The options of ``luna_preprocess.py``, and the settings of crops that they determine."""

import argparse
from collections.abc import Sequence

from data.catalog.scans import MASKS
from data.crops import BORDER, MAX_TISSUE
from data.pairs import CropSettings
from data.readers.volumes import CT, INTENSITIES, SCANS, SPACING
from utils.arguments import OneLineParser, nearest_multiples, number
from utils.arguments import path as path_type
from utils.cores import available_cores

PUBLISHED_SIDE = 64  # voxels of a published crop in x and y; the published box sizes are for this size
# The network halves each side of a crop three times.
DIVISOR = 8


def tissue_share(text: str) -> float | None:
    """Parse ``--tissue``: a share, or ``none``."""
    return None if text == "none" else number(float, 0, 1)(text)


def build_parser() -> OneLineParser:
    """The command line."""
    parser = OneLineParser(
        prog="luna_preprocess.py",
        description="Cut crop pairs for 3D pre-training out of LUNA16's scans, DATA/subset*/*.mhd, or of all volumes "
        f"({', '.join(SCANS)}, DICOM series) below any other folder. Finished scans are skipped, so that a stopped run "
        "resumes. Under torchrun, the scans are distributed over several machines.",
    )  # fmt: skip
    whole, size = number(int, 1, 10**6), number(int, DIVISOR, 4096)
    parser.add_argument(
        "--data", type=path_type, required=True, help="folder of subset0 ... subset9, or of other volumes"
    )
    parser.add_argument("--save", type=path_type, required=True, help="folder for the crops")
    parser.add_argument("--fold", type=number(int, 0, 9), help="preprocess one subset only; unset: all")
    parser.add_argument("--scale", type=whole, default=16, help="crop pairs per scan; with --volumes, in an epoch")
    for name, default in (("rows", 64), ("cols", 64), ("deps", 32)):
        parser.add_argument(f"--input_{name}", type=size, default=default, help="voxels of a global crop")
    for name in ("rows", "cols"):
        help_text = f"voxels of the smallest box that is cut; the other boxes are scaled in proportion ({name})"
        parser.add_argument(f"--crop_{name}", type=size, default=PUBLISHED_SIDE, help=help_text)
    parser.add_argument(
        "--workers", type=whole, default=available_cores(), help="processes, about 1 GB each; unset: one per core"
    )
    parser.add_argument(
        "--max_bad", type=number(float, 0, 1), default=0.01,
        help="share of scans that may fail, at least one scan; 0: none may",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=number(int, 0, 2**62), default=42, help="seed of all random draws, together with the scan's name"
    )
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32", help="float16 halves the disk")
    parser.add_argument(
        "--check", action="store_true",
        help="read every scan once instead of cutting it: what is there, what would fail and why, a contact sheet "
        "SAVE/check.png, and status 1 if preprocessing would fail",
    )  # fmt: skip
    _add_own_volumes(parser)
    return parser


def _add_own_volumes(parser: OneLineParser) -> None:
    """Options for other volumes than LUNA16's."""
    group = parser.add_argument_group("other volumes than LUNA16's")
    group.add_argument(
        "--intensity", choices=INTENSITIES, default=CT,
        help="what becomes 0 and 1; ct: -1000 and 1000 HU; for MRI and PET minmax, each volume's least and largest "
        "value, or percentiles, 0.5 and 99.5 %% of its values",
    )  # fmt: skip
    group.add_argument(
        "--spacing", type=number(float, 0.05, 20), default=SPACING,
        help="mm of a voxel, to which volumes are resampled; boxes are counted in voxels",
    )  # fmt: skip
    group.add_argument(
        "--tissue", type=tissue_share, default=argparse.SUPPRESS, metavar="SHARE|none",
        help=f"share of a box that may be -150 HU or more; none: any, as for an abdomen; unset: {MAX_TISSUE:g} with "
        "--intensity ct, as published for lungs, else none",
    )  # fmt: skip
    group.add_argument(
        "--border", nargs=3, type=number(int, 0, 4096), metavar=("X", "Y", "Z"),
        help=f"voxels kept between boxes and a volume's border, where it has room; unset: {' '.join(map(str, BORDER))} "
        "with --intensity ct, as published for chests, else 0 0 0",
    )  # fmt: skip
    group.add_argument(
        "--exclude", nargs="*", default=list(MASKS), metavar="PATTERN",
        help="volumes that are left out, as masks: patterns of names without ending or, with a slash at the end, of "
        "folders; LUNA16's are never",
    )  # fmt: skip
    group.add_argument(
        "--volumes",
        action="store_true",
        help="keep whole volumes instead of crops: pre-training then draws other boxes in every epoch",
    )


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the options; a wrong one ends the program with one line and status 2."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    for name in ("input_rows", "input_cols", "input_deps"):
        if (side := getattr(options, name)) % DIVISOR:
            nearest = nearest_multiples(side, DIVISOR)
            parser.error(f"--{name}: expected a multiple of {DIVISOR}, got {side}; give {nearest}")
    if "tissue" not in options:
        options.tissue = MAX_TISSUE if options.intensity == CT else None
    if options.border is None:
        options.border = BORDER.tolist() if options.intensity == CT else [0, 0, 0]
    if options.tissue is not None and options.intensity != CT:
        parser.error(f"--tissue is a share of HU, for --intensity {CT}, got --intensity {options.intensity}")
    if options.volumes and options.dtype != "float32":
        parser.error(f"--dtype is for crops; --volumes keeps int16, got --dtype {options.dtype}")
    return options


def settings_of_options(options: argparse.Namespace) -> CropSettings:
    """The settings that determine the crops."""
    return CropSettings(
        shape=(options.input_rows, options.input_cols, options.input_deps),
        box_scale=(options.crop_rows / PUBLISHED_SIDE, options.crop_cols / PUBLISHED_SIDE),
        pairs=options.scale, seed=options.seed, dtype=options.dtype, intensity=options.intensity,
        spacing=options.spacing, tissue=options.tissue, border=tuple(options.border), volumes=options.volumes,
    )  # fmt: skip
