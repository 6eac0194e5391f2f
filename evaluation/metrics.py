"""Area under the ROC curve, a class at a time, and means, with bootstrap intervals over patients."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from utils.optional import import_optional
from utils.seeding import numpy_generator

REPLICATES = 1000
INTERVAL = (2.5, 97.5)  # percentiles: 95 % lie between


class Estimate(NamedTuple):
    """A number with its 95 % interval; the interval is None where no resample gives the number."""

    value: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, value: float, replicates: np.ndarray) -> "Estimate":
        """From the bootstrap's replicates, of which those that are NaN are left out."""
        good = replicates[np.isfinite(replicates)]
        low, high = np.percentile(good, INTERVAL).tolist() if len(good) else (None, None)
        return cls(value, low, high)

    def __str__(self) -> str:
        interval = "no interval" if self.low is None else f"95 % interval {self.low:.4f} to {self.high:.4f}"
        return f"{self.value:.4f}, {interval}"


class Auroc(NamedTuple):
    """What :func:`auroc` finds."""

    per_class: dict[str, Estimate]
    """By name, of the classes that have both positives and negatives."""
    mean: Estimate | None
    """Over these classes; None where there is none."""
    missing: dict[str, str]
    """The other classes, and what they lack."""


def require_metrics() -> None:
    """Fail before hours of training, not after.

    Raises:
        UserError: scikit-learn is not installed.
    """
    import_optional("sklearn.metrics", "--phase finetune")


def weighted_auroc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> float:
    """AUROC of N scores with a weight each, ties counting one half; NaN where one kind has no weight.

    scikit-learn gives the same, and sorts at every call, which a thousand resamples of a large test set cannot afford;
    here scores come sorted.

    Args:
        scores: N, ascending.
        positive: N, bool.
        weights: N, such as how often a resample drew each.
    """
    starts = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])
    up = np.add.reduceat(weights * positive, starts)
    down = np.add.reduceat(weights * ~positive, starts)
    pairs = up.sum() * down.sum()
    below = np.cumsum(down) - down
    return float((up * (below + 0.5 * down)).sum() / pairs) if pairs else float("nan")


def missing_class(labels: np.ndarray) -> str | None:
    """What a class lacks for an AUROC, None where nothing; ``labels`` N of 0, 1 and NaN."""
    if not (labels == 1).any():
        return "no positives"
    return None if (labels == 0).any() else "no negatives"


def draw_patients(patients: Sequence[str], *, seed: int, replicates: int) -> tuple[np.ndarray, np.ndarray]:
    """Resamples of patients, with replacement.

    Resamples draw patients, not images: those of one patient resemble each other, and an interval over images would be
    too narrow.

    Args:
        patients: N, patient ID of each image.
        seed: of the resamples.
        replicates: how many, R.

    Returns:
        How often each resample drew each of the P patients, R P, and which of them each image is of, N.
    """
    unique, of_patient = np.unique(np.asarray(patients), return_inverse=True)
    rng = numpy_generator(seed, "bootstrap")
    share = np.full(len(unique), 1 / max(len(unique), 1))
    draws = rng.multinomial(len(unique), share, size=replicates) if len(unique) else np.zeros((0, 0), dtype=int)
    return draws, of_patient


def means_of(
    values: np.ndarray, patients: Sequence[str], *, seed: int, replicates: int = REPLICATES
) -> tuple[list[Estimate | None], Estimate | None]:
    """The mean of each column over the values that are known, and the mean of these means, with 95 % intervals.

    Args:
        values: N K, NaN where there is none.
        patients: N, patient ID of each row.
        seed: of the resamples, which draw patients.
        replicates: how many resamples.

    Returns:
        One a column, None for one without a known value; and the mean, None where no column has one.
    """
    known = np.isfinite(values)
    draws, of_patient = draw_patients(patients, seed=seed, replicates=replicates)
    weights = draws[:, of_patient]
    with np.errstate(invalid="ignore"):  # NaN where a resample drew no known value
        table = (weights @ np.where(known, values, 0.0)) / (weights @ known.astype(float))
    each = [
        Estimate.of(float(column[has].mean()), resampled) if has.any() else None
        for column, has, resampled in zip(values.T, known.T, table.T, strict=True)
    ]
    found = [estimate.value for estimate in each if estimate]
    if not found:
        return each, None
    has_any = np.isfinite(table).any(axis=1)
    return each, Estimate.of(float(np.mean(found)), np.nanmean(table[has_any], axis=1))


def auroc(
    scores: np.ndarray, labels: np.ndarray, names: Sequence[str], *, patients: Sequence[str], seed: int,
    replicates: int = REPLICATES,
) -> Auroc:  # fmt: skip
    """AUROC of every class that has one, and their mean, with 95 % intervals over patients.

    Args:
        scores: N K.
        labels: N K of 0, 1 and, where unlabelled, NaN.
        names: K, of the classes.
        patients: N, patient ID of each image.
        seed: of the resamples.
        replicates: how many resamples; 0 for none, and no intervals.
    """
    metrics = import_optional("sklearn.metrics", "AUROC")
    missing = {name: lack for name, column in zip(names, labels.T, strict=True) if (lack := missing_class(column))}
    draws, of_patient = draw_patients(patients, seed=seed, replicates=replicates)
    values, resampled = {}, {}
    for k, name in enumerate(names):
        if name in missing:
            continue
        known = np.flatnonzero(~np.isnan(labels[:, k]))
        values[name] = float(metrics.roc_auc_score(labels[known, k], scores[known, k]))
        order = known[np.argsort(scores[known, k], kind="stable")]
        ordered, positive, patient = scores[order, k], labels[order, k] == 1, of_patient[order]
        resampled[name] = np.array([weighted_auroc(ordered, positive, draw[patient]) for draw in draws])
    if not values:
        return Auroc({}, None, missing)
    per_class = {name: Estimate.of(value, resampled[name]) for name, value in values.items()}
    # A resample without positives of a rare class has no AUROC of it; the mean is then over the others.
    table = np.stack(list(resampled.values()))
    has_any = np.isfinite(table).any(axis=0)
    means = np.nanmean(table[:, has_any], axis=0)
    return Auroc(per_class, Estimate.of(float(np.mean(list(values.values()))), means), missing)
