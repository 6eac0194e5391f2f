"""Does pre-training help? Encoders compared by the program's own pre-training, fine-tuning and probes.

python -m benchmarks.evidence [--data DIR --n NAME --d 2] [--arms ARM ...] [--labels P ...] [--steps N ...] [--out DIR]
"""

import contextlib
import json
import os
import shlex
import shutil
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.evidence.draws import LISTS, prepare_lists
from benchmarks.evidence.estimate import describe_hours
from benchmarks.evidence.jobs import all_jobs, is_done, trial_draws
from benchmarks.evidence.phantoms import PHANTOMS, make_phantoms
from benchmarks.evidence.report import table, write_report
from benchmarks.evidence.run import exclusively, run_all
from benchmarks.evidence.scores import collect, summarize
from benchmarks.evidence.settings import (
    FINETUNED,
    FROZEN,
    PRESETS,
    RANDOM,
    READOUTS,
    VOLUMES_ALIKE,
    Settings,
    parse_arm,
)
from downstream.folder import choose_task
from downstream.probe import PROBED
from engine.stopping import EXIT_STATUS, Stopped
from evaluation.metrics import require_metrics
from evaluation.probes import require_probes
from utils.arguments import OneLineParser, number, path
from utils.atomic import whole_file
from utils.errors import UsageError, UserError, run_command
from utils.options import CLASSIFICATION, DATASETS, parse_options
from utils.progress import say
from utils.provenance import describe_program
from utils.world import read_world

PROGRAM = "python -m benchmarks.evidence"

SETTINGS = "settings.json"
# What all runs of a comparison share.
FIXED = ("data", "pretraining_data", "n", "d", "lists", "rates", "pretraining", "finetuning", "paper")
# Random first weights: what is measured begins without the labels of ImageNet.
PRETRAINING = {2: "--encoder_weights none", 3: ""}


def parse_arguments(arguments: Sequence[str] | None = None) -> Namespace:
    """Parse the options; a wrong one ends the program with one line and status 2."""
    parser = OneLineParser(
        prog=PROGRAM,
        description="Compare encoders, frozen and fine-tuned, with few labels. A comparison that was cut short goes on "
        "where it was; several processes, also of other machines, may work in one --out.",
    )  # fmt: skip
    parser.add_argument("--data", type=path, metavar="DIR", help="folder of labelled data; without it, phantoms")
    parser.add_argument("--pretraining_data", type=path, metavar="DIR", help="folder to pre-train on, if another one")
    parser.add_argument("--n", choices=list(DATASETS), help="the data set")
    parser.add_argument("--d", type=int, choices=[2, 3], default=2, help="dimensions")
    parser.add_argument("--lists", type=path, metavar="DIR", help="folder of the data set's lists, if it has its own")
    parser.add_argument(
        "--arms", nargs="+", default=[RANDOM, "pretrained"], metavar="ARM",
        help=f"random, supervised, floor, {', '.join(PRESETS[2])}, NAME=FILE.pt, or NAME='OPTIONS of pre-training'",
    )  # fmt: skip
    parser.add_argument("--steps", nargs="+", type=number(int, 1, 10**8), default=[250], help="of pre-training")
    parser.add_argument(
        "--labels", nargs="+", type=number(float, 0, 100, open_low=True), default=[1, 5, 10, 100],
        help="percent of the training patients whose labels are used",
    )  # fmt: skip
    parser.add_argument("--draws", type=number(int, 1, 100), default=5, help="draws of labelled patients")
    parser.add_argument("--readouts", nargs="+", choices=READOUTS, help="unset: all that the data set has")
    parser.add_argument(
        "--rates", nargs="+", type=number(float, 0, 1, open_low=True), default=[1e-4, 3e-4, 1e-3],
        help="learning rates of fine-tuning; each arm and share chooses its own on the validation patients",
    )  # fmt: skip
    for name in ("common", "pretraining", "finetuning"):
        runs = "every run" if name == "common" else name
        parser.add_argument(f"--{name}", default="", metavar="OPTIONS", help=f"options of main.py for {runs}")
    parser.add_argument("--protocol", choices=["draws", "paper"], default="draws", help="paper: see docs/evidence.md")
    parser.add_argument("--workers", type=number(int, 1, 256), default=1, help="processes side by side")
    parser.add_argument("--out", type=path, default="runs/evidence", metavar="DIR", help="folder of runs and results")
    parser.add_argument("--report", action="store_true", help="start no runs, report those that are done")
    options = parser.parse_args(arguments)
    if options.data is None and (options.n or options.pretraining_data):
        parser.error("--data: expected the folder of the data set of --n")
    if options.data is not None and not options.n:
        parser.error("--n: expected the data set in --data")
    return options


def make_settings(options: Namespace) -> Settings:
    """The comparison that was asked for; without data, phantoms are made."""
    out = Path(options.out)
    data, n, own = options.data, options.n, {}
    pretraining_data = options.pretraining_data or data
    if data is None:
        phantoms = PHANTOMS[options.d]
        data, n, own = str(out / "phantoms"), phantoms.n, phantoms._asdict()
        pretraining_data = make_phantoms(options.d, Path(data))
    common, pretraining, finetuning = (
        (*shlex.split(own.get(name, "")), *shlex.split(getattr(options, name)))
        for name in ("common", "pretraining", "finetuning")
    )
    classified = _is_classified(n, ("--data", data, "--d", options.d, "--output", out, *common, *finetuning))
    if classified and n == "folder" and options.d == 3:
        finetuning = (*VOLUMES_ALIKE, *finetuning)
    return Settings(
        out=out, data=data, pretraining_data=pretraining_data, n=n, d=options.d, lists=options.lists,
        arms=tuple(parse_arm(arm, options.d) for arm in options.arms), steps=tuple(sorted(set(options.steps))),
        labels=tuple(sorted(set(options.labels))), draws=options.draws,
        readouts=_readouts(options.readouts, n, classified=classified), rates=tuple(sorted(set(options.rates))),
        common=_for_this_process(common),
        pretraining=(*shlex.split(PRETRAINING[options.d]), *pretraining), finetuning=finetuning,
        paper=options.protocol == "paper",
    )  # fmt: skip


def _is_classified(n: str, words: Sequence[object]) -> bool:
    """Whether a data set has labels of whole images; a user's own folder may have masks instead, by its options."""
    if n != "folder":
        return n in PROBED
    typed = ("--n", n, "--phase", "finetune", "--weight", "none", *words)
    return choose_task(parse_options([str(word) for word in typed])) == CLASSIFICATION


def _readouts(typed: Sequence[str] | None, n: str, *, classified: bool) -> tuple[str, ...]:
    """The readouts asked for, or all that the data set has: segmentation has no probes of frozen features."""
    if classified:
        return tuple(typed or READOUTS)
    if frozen := set(typed or ()) & set(FROZEN):
        raise UsageError(f"--readouts: {' and '.join(sorted(frozen))} are for classification, --n {n} is segmented")
    return (FINETUNED,)


def _for_this_process(common: tuple[str, ...]) -> tuple[str, ...]:
    """Under torchrun every process has its own GPU and makes runs of its own."""
    world = read_world()
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        os.environ.pop(name, None)
    import torch

    own = ("--device", f"cuda:{world.local_rank}") if world.size > 1 and torch.cuda.is_available() else ()
    return (*own, *common)


@contextlib.contextmanager
def claim(settings: Settings) -> Iterator[None]:
    """Keep the settings in the folder, so that results of others are never mixed with these.

    Arms, lengths of pre-training, shares, draws and readouts may be added to a comparison. If the first lists of a new
    comparison cannot be made within, the folder is free for other settings again.

    Raises:
        UsageError: the folder holds a comparison of other settings.
    """
    file, lists = settings.out / SETTINGS, settings.out / LISTS
    made = [path for path in (file, lists) if not path.exists()]
    arms = {arm.name: [arm.options and list(arm.options), arm.weight] for arm in settings.arms}
    fixed = {name: str(getattr(settings, name)) for name in FIXED}
    fixed |= {"common": str(_without_device(settings.common)), "trial draws": str(trial_draws(settings))}
    kept: dict[str, dict[str, Any]] = {"fixed": fixed, "arms": arms}
    before = kept if file in made else json.loads(file.read_text("utf-8"))
    changed = [name for name, value in fixed.items() if value != before["fixed"].get(name)]
    changed += [f"arm {name}" for name, arm in arms.items() if before["arms"].get(name, arm) != arm]
    if changed:
        raise UsageError(
            f"--out: {settings.out} holds a comparison of other settings ({', '.join(changed)}; see {file}); give "
            "another folder"
        )
    with whole_file(file, "w") as new:
        json.dump({"fixed": fixed, "arms": before["arms"] | arms}, new, indent=1)
    try:
        yield
    except (UserError, SystemExit):
        # Lists that were there before may be those of a run in the same folder.
        if file in made:
            file.unlink()
            if lists in made:
                shutil.rmtree(lists, ignore_errors=True)
        raise


def _without_device(common: tuple[str, ...]) -> tuple[str, ...]:
    """Options without the device, which each process under torchrun has its own of."""
    return common[2:] if common[:1] == ("--device",) else common


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, then print the table and write it as JSON, Markdown and a plot; returns the exit status."""
    options = parse_arguments(arguments)
    is_main = read_world().is_main
    require_metrics()
    require_probes("benchmarks.evidence")
    Path(options.out).mkdir(parents=True, exist_ok=True)
    with exclusively(Path(options.out)):
        settings = make_settings(options)
        with claim(settings):
            prepare_lists(settings)
    if settings.paper and is_main and not options.report and (hours := describe_hours(settings)):
        say(hours)
    try:
        failed = {} if options.report else run_all(settings, options.workers)
    except Stopped as stopped:
        print(f"benchmarks.evidence: {stopped}; start again with the same options to go on", file=sys.stderr)
        return EXIT_STATUS
    rows = summarize(collect(settings))
    write_report(
        settings.out, rows, {"settings": json.loads((settings.out / SETTINGS).read_text("utf-8")), **describe_program()}
    )
    if is_main:
        print(table(rows))
    if failed:
        first = next(iter(failed.items()))
        raise UserError(
            f"{len(failed)} runs failed, the first in {first[0]}: {first[1]}; start again to try them again"
        )
    if left := sum(not is_done(job, settings) for job in all_jobs(settings)):
        text = f"{left} runs are not done"
        print(f"{text}; another process failed or works on them, see its messages" if not options.report else text)
        return 0 if options.report else 1
    return 0


if __name__ == "__main__":
    run_command(main, PROGRAM)
