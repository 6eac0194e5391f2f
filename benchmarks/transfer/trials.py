"""Which rate an encoder is fine-tuned with: each chooses its own, for each task and share of the labels.

The validation part decides, on labelled images that no result is of.
"""

from collections.abc import Mapping
from typing import NamedTuple

from benchmarks.transfer.encoders import FINE_TUNED_ENCODERS
from benchmarks.transfer.networks import TASKS
from benchmarks.transfer.readouts import fine_tuned
from benchmarks.transfer.settings import Settings
from benchmarks.transfer.tuning import FACTORS

TRIAL_SEED = -1


class Trial(NamedTuple):
    """A fine-tuning to choose a rate by."""

    encoder: str
    task: str
    percent: float
    factor: float
    """Of FACTORS."""


def all_trials(settings: Settings) -> list[Trial]:
    """Every rate for every fine-tuned encoder, task and share of the labels."""
    return [
        Trial(encoder, task, percent, factor)
        for encoder in FINE_TUNED_ENCODERS
        for task in TASKS
        for percent in settings.percents
        for factor in FACTORS
    ]


def run_trial(trial: Trial, settings: Settings) -> dict[str, float]:
    """What the validation part says of a rate."""
    _, verdict = fine_tuned(trial.encoder, trial.task, trial.percent, TRIAL_SEED, trial.factor, settings)
    return {"validation": verdict.number}


def choose_factors(trials: Mapping[Trial, Mapping[str, float]]) -> dict[tuple[str, str, float], float]:
    """For each (encoder, task, share of the labels) the factor of the best trial."""
    best: dict[tuple[str, str, float], Trial] = {}
    for trial, numbers in trials.items():
        kept = best.setdefault(trial[:3], trial)
        if numbers["validation"] > trials[kept]["validation"]:
            best[trial[:3]] = trial
    return {key: trial.factor for key, trial in best.items()}
