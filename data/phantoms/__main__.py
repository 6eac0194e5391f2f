"""Command line program that writes a phantom data set: ``python -m data.phantoms``."""

import sys
from collections.abc import Sequence

from data.phantoms.ct import MIN_WIDTH, WIDTH
from data.phantoms.dataset import MAX_SIDE, make_ct, make_xrays
from utils.arguments import OneLineParser, number
from utils.errors import run_command

PROGRAM = "python -m data.phantoms"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the data set described by the options; returns the exit status."""
    parser = OneLineParser(
        prog=PROGRAM,
        description="Make a made-up data set: chest X-rays as NIH ChestX-ray14 (--d 2), chest CT as LUNA16 (--d 3).",
    )
    parser.add_argument("--d", type=int, choices=[2, 3], default=3, help="dimensions")
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder for the data set")
    parser.add_argument("--count", type=number(int, 1, 100000), required=True, help="images or scans")
    parser.add_argument("--seed", type=number(int, 0, 2**62), default=42, help="seed of all random draws")
    parser.add_argument(
        "--size", type=int, help=f"height of an image in pixels ({MAX_SIDE}) or width of a scan in mm ({WIDTH:g})"
    )
    options = parser.parse_args(arguments)
    low, high, unit = (64, 4096, "pixels") if options.d == 2 else (MIN_WIDTH, 600, "mm")
    if options.size is not None and not low <= options.size <= high:
        parser.error(f"--size: expected {low:g} to {high:g} {unit} with --d {options.d}, got {options.size}")

    if options.d == 2:
        made = make_xrays(options.out, options.count, options.seed, size=options.size or MAX_SIDE)
    else:
        made = make_ct(options.out, options.count, options.seed, size=options.size or WIDTH)
    what = "chest X-rays" if options.d == 2 else "chest CT scans"
    print(
        f"{options.out}: {len(made.names)} made-up {what}, {len(made.with_nodule)} of them with nodules",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    run_command(main, PROGRAM)
