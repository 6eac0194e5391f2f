"""A look at the data of a run of main.py before it: every file is read once, nothing is trained or predicted."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from checks.plans import Open, Plan, make_plan
from checks.report import fail, finish, print_left_out
from checks.shown import show_samples
from checks.tally import Tally
from data.broken import require_few_broken
from data.catalog.joins import SHOWN
from data.catalog.list_folders import ListFolders
from data.evaluation_loader import EvaluationLoader
from data.looks import Looks, look_at
from utils.errors import UserError
from utils.notes import kept_notes
from utils.options import PRETASK, PROBE, Options
from utils.world import World

TRAINED = ("pre-training", "train")
"""Splits that are trained on."""
AT_ONCE = 4  # files that a worker reads before it answers


def check_run(options: Options, world: World, open_pretraining: Open) -> int:
    """Lists -> files -> table, contact sheet and verdict; returns the exit status: 1 if a run would fail.

    Nothing of a run's output is written: missing lists are made in a temporary folder, and caches are not filled.
    """
    lists = ListFolders.of_run(
        typed=options.lists, output=options.output, weight=options.weight, resume=options.resume, is_main=False
    )
    with kept_notes() as notes:
        try:
            plan = make_plan(_without_cache(options), lists, world, open_pretraining)
        except UserError as error:
            return fail(Path(options.output), _without_paths(notes, lists), str(error))
    return _report(options, plan, _without_paths(notes, lists))


def _without_paths(notes: Sequence[str], lists: ListFolders) -> list[str]:
    """Return lines without the name of the temporary folder, where lists are made that a run would make."""
    return [line.replace(str(lists.made), "<temporary folder>") if lists.temporary else line for line in notes]


def _without_cache(options: Options) -> Options:
    """Return options that read the files themselves, at the size that a cache of pre-training has."""
    if options.cache and options.phase == PRETASK:
        return replace(options, cache=None, image_size=options.cache_size)
    return replace(options, cache=None)


class Found(NamedTuple):
    """What reading the files of a split found."""

    rows: dict[str, str]
    """Of the table."""
    record: dict[str, Any]
    broken: dict[str, str]
    """Samples by name, with the reason."""
    flat: list[str]
    """The first files of one value only."""
    problem: str | None
    """Why a run would fail."""


def _report(options: Options, plan: Plan, notes: Sequence[str]) -> int:
    """Read everything, then print and write what was found; returns the exit status."""
    splits = {title: _look(title, dataset, plan, options) for title, dataset in plan.splits.items()}
    broken = {f"{title} {name}": why for title, found in splits.items() for name, why in found.broken.items()}
    flat = [name for found in splits.values() for name in found.flat][:SHOWN]
    print_left_out([*notes, *(f"refused: {line}" for line in plan.refused)], broken, flat)
    record = {title: found.record for title, found in splits.items()}
    return finish(
        Path(options.output), columns={title: found.rows for title, found in splits.items()},
        record={"notes": list(notes), "refused": list(plan.refused), "splits": record},
        samples=list(show_samples(plan.shown, plan.show, options.seed)), caption=plan.caption,
        problem=next((found.problem for found in splits.values() if found.problem), None), start=_start(options),
    )  # fmt: skip


def _look(title: str, dataset: Any, plan: Plan, options: Options) -> Found:
    looks = look_at(dataset)
    tally, broken = _read(looks, options.workers, title)
    total, labels = sum(map(looks.samples, range(len(looks)))), _labels(dataset, plan)
    what = "samples" if title in TRAINED and options.phase != PROBE else "samples to evaluate"
    rows = _head(looks, dataset, plan, total) | tally.rows() | labels | ({"broken": str(len(broken))} if broken else {})
    record = {"samples": total, **tally.as_record(), "labels": labels, "broken": broken}
    return Found(rows, record, broken, tally.flat_names, _problem(broken, total, options.max_bad, what))


def _problem(broken: Mapping[str, str], total: int, max_bad: float, what: str) -> str | None:
    """Return why a run would fail for its broken samples; None if it would not."""
    try:
        require_few_broken(broken, total=total, max_bad=max_bad, what=what)
    except UserError as error:
        return str(error)
    return f"--data: none of the {total} samples can be read" if len(broken) == total else None


def _start(options: Options) -> str:
    """Return the verdict on data that a run can use."""
    held = options.resume is None and any((Path(options.output) / "state").glob("*.pt"))
    return "a run would start" + (f", with --resume auto or another --output than {options.output}" if held else "")


def _read(looks: Looks, workers: int, title: str) -> tuple[Tally, dict[str, str]]:
    """Read all files; returns what they are, and the reason for each sample that is broken."""
    tally, bad = Tally(), dict[str, str]()
    loader = EvaluationLoader(
        looks, batch_size=AT_ONCE, workers=workers, max_bad=1.0, purpose=f"reading {title}", unit=looks.unit[:-1]
    )
    for indices, batch in loader:
        for index, look in zip(indices, batch, strict=True):
            tally.add(looks.name(index), look.facts, look.found)
            bad |= {f"{looks.name(index)} {i}": reason for i, reason in enumerate(look.lost)}
    for index in range(len(looks)):
        if (reason := loader.bad.get(looks.name(index))) is not None:
            samples = looks.samples(index)
            bad |= {f"{looks.name(index)} {i}" if samples > 1 else looks.name(index): reason for i in range(samples)}
    return tally, bad


def _head(looks: Looks, dataset: Any, plan: Plan, total: int) -> dict[str, str]:
    """Return how many files, samples and patients there are."""
    rows = {looks.unit: str(len(looks))} | ({"samples": str(total)} if total != len(looks) else {})
    patients = getattr(dataset, "patients", plan.patients)
    if patients is None and hasattr(dataset, "crops"):
        return rows | {"scans": str(len({crop.scan for crop in dataset.crops}))}
    # Images to predict are of unknown patients.
    return rows | ({"patients": str(len(set(patients)))} if patients is not None and any(patients) else {})


def _labels(dataset: Any, plan: Plan) -> dict[str, str]:
    """Return how many samples have each class, of those whose label is known."""
    found = getattr(dataset, "labels", None)
    if found is None:
        found = getattr(getattr(dataset, "candidates", None), "labels", None)
    if found is None:
        return {}
    return {
        f"label {name}": f"{int((column == 1).sum())} of {int((column == column).sum())}"
        for name, column in zip(plan.classes, found.T, strict=True)
    }
