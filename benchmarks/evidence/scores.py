"""From the files that runs leave to means and gains, with intervals over test patients and draws of labels."""

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.evidence.draws import read_patients
from benchmarks.evidence.jobs import Readout, all_readouts, is_done
from benchmarks.evidence.settings import FINETUNED, FROZEN, RANDOM, Settings
from evaluation.metrics import Estimate, draw_patients, missing_class, resampled_aurocs
from evaluation.probes_report import probe_path
from evaluation.results import PREDICTIONS
from utils.seeding import numpy_generator

REPLICATES = 1000


class Group(NamedTuple):
    """What one number of the report is of."""

    metric: str
    """``AUROC`` or ``Dice`` and the class or region."""
    arm: str
    steps: int
    readout: str
    percent: float


class Replicates(NamedTuple):
    """A metric of each draw of labels: its value, D, and its value in each resample of the test patients, D R."""

    draws: tuple[int, ...]
    values: np.ndarray
    resampled: np.ndarray


class Row(NamedTuple):
    """One number of the report."""

    group: Group
    mean: Estimate
    gain: Estimate | None
    """Over the random encoder, read out in the same way with the same labels; None for the random one."""
    draws: int


class Resampling:
    """The same resamples of the test patients for all runs, so that gains are paired.

    Args:
        patients: the patient of each test sample by its name.
    """

    def __init__(self, patients: Mapping[str, str]) -> None:
        self.names = {name: i for i, name in enumerate(patients)}
        draws, of_patient = draw_patients(list(patients.values()), seed=0, replicates=REPLICATES)
        self.weights = draws[:, of_patient]

    def of(self, samples: Sequence[str]) -> np.ndarray:
        """How often each resample drew each of these samples, R N."""
        return self.weights[:, [self.names[name] for name in samples]]


def read_metrics(path: Path, resampling: Resampling) -> dict[str, tuple[float, np.ndarray]]:
    """The metrics of a file of predictions, each with its value in every resample: AUROC by class, or Dice by region.

    A class whose labels are all alike has no AUROC and is left out.
    """
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    weights = resampling.of([row["name"] for row in rows])
    columns = {name: np.array([float(row[name] or "nan") for row in rows]) for name in rows[0] if name != "name"}
    found = {}
    for name, values in columns.items():
        if name.startswith("dice_"):
            found[f"Dice {name.removeprefix('dice_')}"] = _mean(values, weights)
        elif f"label_{name}" in columns and not missing_class(columns[f"label_{name}"]):
            found[f"AUROC {name}"] = _auroc(values, columns[f"label_{name}"], weights)
    return found


def _mean(values: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):  # a resample may draw no known value
        return float(values[known].mean()), weights[:, known] @ values[known] / weights[:, known].sum(axis=1)


def _auroc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
    known = np.flatnonzero(np.isfinite(labels) & np.isfinite(scores))
    once = np.ones((1, len(scores)))
    value, resampled = (resampled_aurocs(scores[known], labels[known], each, known) for each in (once, weights))
    return float(value[0]), resampled


def collect(settings: Settings) -> dict[Group, Replicates]:
    """The metrics of all runs that are done."""
    resampling = Resampling(read_patients(settings)["test"])
    found: dict[Group, dict[int, tuple[float, np.ndarray]]] = defaultdict(dict)
    for job in all_readouts(settings):
        if not is_done(job, settings):
            continue
        for readout, path in _files(job, settings).items():
            for metric, values in read_metrics(path, resampling).items():
                found[Group(metric, job.arm.name, job.steps, readout, job.percent)][job.draw] = values
    return {
        group: Replicates(
            tuple(draws), np.array([value for value, _ in draws.values()]),
            np.stack([resampled for _, resampled in draws.values()]),
        )
        for group, draws in found.items()
    }  # fmt: skip


def _files(job: Readout, settings: Settings) -> dict[str, Path]:
    """The files of predictions of a run by readout."""
    folder = job.folder(settings)
    if job.method == FINETUNED:
        return {FINETUNED: folder / PREDICTIONS}
    return {readout: probe_path(folder, PREDICTIONS, readout) for readout in FROZEN if readout in settings.readouts}


def summarize(found: Mapping[Group, Replicates]) -> list[Row]:
    """Means over the draws of labels and gains over the random encoder, with 95 % intervals over patients and draws."""
    rows = []
    for group, own in found.items():
        base = found.get(group._replace(arm=RANDOM, steps=0))
        gain = _difference(own, base) if base is not None and group.arm != RANDOM else None
        rows.append(Row(group, _estimate(own), gain, len(own.draws)))
    return rows


def _difference(own: Replicates, base: Replicates) -> Estimate | None:
    """The mean gain, over the draws that both have."""
    shared = [draw for draw in own.draws if draw in base.draws]
    if not shared:
        return None
    mine, theirs = ([one.draws.index(draw) for draw in shared] for one in (own, base))
    return _estimate(Replicates(
        tuple(shared), own.values[mine] - base.values[theirs], own.resampled[mine] - base.resampled[theirs]
    ))  # fmt: skip


def _estimate(one: Replicates) -> Estimate:
    """The mean over draws; each replicate resamples the draws as well, the same ones for every arm."""
    count = len(one.draws)
    weights = numpy_generator("draws of labels", count).multinomial(count, np.full(count, 1 / count), size=REPLICATES)
    known = np.isfinite(one.resampled)
    with np.errstate(invalid="ignore"):
        means = (weights.T * np.where(known, one.resampled, 0)).sum(axis=0) / (weights.T * known).sum(axis=0)
    return Estimate.of(float(np.nanmean(one.values)), means)
