"""Area under the ROC curve of each class, and means, with bootstrap intervals over patients."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from utils.optional import import_optional
from utils.seeding import numpy_generator

REPLICATES = 1000
INTERVAL = (2.5, 97.5)  # percentiles of a 95 % interval
BLOCK = 1 << 18  # weights that are counted at once


class Estimate(NamedTuple):
    """A number with its 95 % interval, which is None if the number is undefined in every resample."""

    value: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, value: float, replicates: np.ndarray) -> "Estimate":
        """Build an estimate from bootstrap replicates; NaN replicates are left out."""
        good = replicates[np.isfinite(replicates)]
        low, high = np.percentile(good, INTERVAL).tolist() if len(good) else (None, None)
        return cls(value, low, high)

    def __str__(self) -> str:
        interval = "no interval" if self.low is None else f"95 % interval {self.low:.4f} to {self.high:.4f}"
        return f"{self.value:.4f}, {interval}"


class Auroc(NamedTuple):
    """The result of :func:`auroc`."""

    per_class: dict[str, Estimate]
    """AUROC by name of the classes that have both positives and negatives."""
    mean: Estimate | None
    """The mean over these classes, or None without any."""
    missing: dict[str, str]
    """The other classes, and the reason why they have no AUROC."""


def require_metrics() -> None:
    """Check that scikit-learn is installed before training starts.

    Raises:
        UserError: scikit-learn is not installed.
    """
    import_optional("sklearn.metrics", "--phase finetune")


def weighted_auroc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute the AUROC of N weighted scores, where ties count one half; NaN if positives or negatives have no weight.

    The result equals scikit-learn's, which sorts at every call. Here scores are sorted already, which is much faster
    for a thousand resamples of a large test set.

    Args:
        scores: N, ascending.
        positive: N, bool.
        weights: ... N, for example how often each resample drew each sample; an AUROC for each row of them.
    """
    starts = np.flatnonzero(np.concatenate(([True], scores[1:] != scores[:-1])))
    positives = np.add.reduceat(weights * positive, starts, axis=-1)
    negatives = np.add.reduceat(weights * ~positive, starts, axis=-1)
    pairs = positives.sum(axis=-1) * negatives.sum(axis=-1)
    below = np.cumsum(negatives, axis=-1) - negatives
    with np.errstate(invalid="ignore"):
        return (positives * (below + 0.5 * negatives)).sum(axis=-1) / pairs


def resampled_aurocs(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray, of_column: np.ndarray) -> np.ndarray:
    """Compute the AUROC in each resample, R.

    Args:
        scores: N.
        labels: N of 0 and 1.
        weights: R P, how often each resample drew each patient, or each sample.
        of_column: N, the column of ``weights`` that each score belongs to.
    """
    order = np.argsort(scores, kind="stable")
    ordered, positive, columns = scores[order], labels[order] == 1, of_column[order]
    # In blocks, so that a large test set does not take a thousand times its memory.
    rows = max(1, BLOCK // max(1, len(scores)))
    blocks = [weights[start : start + rows, columns] for start in range(0, len(weights), rows)]
    return np.concatenate([np.zeros(0), *(weighted_auroc(ordered, positive, block) for block in blocks)])


def missing_class(labels: np.ndarray) -> str | None:
    """Return why a class has no AUROC, or None if it has one; ``labels``: N of 0, 1 and NaN."""
    if not (labels == 1).any():
        return "no positives"
    return None if (labels == 0).any() else "no negatives"


def draw_patients(patients: Sequence[str], *, seed: int, replicates: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw bootstrap resamples of patients, with replacement.

    Patients are drawn instead of images, since images of one patient are alike and an interval over images would be too
    narrow.

    Args:
        patients: N, patient ID of each image.
        seed: seed of the draws.
        replicates: number of resamples, R.

    Returns:
        How often each resample drew each of the P patients, R P, and the index of each image's patient, N.
    """
    unique, of_patient = np.unique(np.asarray(patients), return_inverse=True)
    rng = numpy_generator(seed, "bootstrap")
    share = np.full(len(unique), 1 / max(len(unique), 1))
    draws = rng.multinomial(len(unique), share, size=replicates) if len(unique) else np.zeros((0, 0), dtype=int)
    return draws, of_patient


def means_of(
    values: np.ndarray, patients: Sequence[str], *, seed: int, replicates: int = REPLICATES
) -> tuple[list[Estimate | None], Estimate | None]:
    """Compute the mean of each column over its known values, and the mean of these means, with 95 % intervals.

    Args:
        values: N K, NaN where unknown.
        patients: N, patient ID of each row.
        seed: seed of the bootstrap over patients.
        replicates: number of resamples.

    Returns:
        One estimate per column, None for a column without a known value; and their mean, None without any.
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
    """Compute the AUROC of every class that has one, and their mean, with 95 % intervals over patients.

    Args:
        scores: N K.
        labels: N K of 0 and 1, NaN where unlabelled.
        names: K names of the classes.
        patients: N, patient ID of each image.
        seed: seed of the bootstrap over patients.
        replicates: number of resamples; with 0 there are no intervals.
    """
    metrics = import_optional("sklearn.metrics", "AUROC")
    missing = {name: reason for name, column in zip(names, labels.T, strict=True) if (reason := missing_class(column))}
    draws, of_patient = draw_patients(patients, seed=seed, replicates=replicates)
    values, resampled = {}, {}
    for k, name in enumerate(names):
        if name in missing:
            continue
        known = np.flatnonzero(~np.isnan(labels[:, k]))
        values[name] = float(metrics.roc_auc_score(labels[known, k], scores[known, k]))
        resampled[name] = resampled_aurocs(scores[known, k], labels[known, k], draws, of_patient[known])
    if not values:
        return Auroc({}, None, missing)
    per_class = {name: Estimate.of(value, resampled[name]) for name, value in values.items()}
    # A resample without positives of a rare class has no AUROC for it; its mean is over the other classes.
    table = np.stack(list(resampled.values()))
    has_any = np.isfinite(table).any(axis=0)
    means = np.nanmean(table[:, has_any], axis=0)
    return Auroc(per_class, Estimate.of(float(np.mean(list(values.values()))), means), missing)
