"""Two probes of frozen features, given as arrays: nearest neighbours and logistic regression."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from evaluation.metrics import Auroc, auroc, missing_class
from evaluation.predictions import Predictions
from utils.optional import import_optional

# Candidates for the linear probe's regularisation (scikit-learn's C), strongest first.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
# Tight enough that a fit started from the weights of another strength ends at the same weights as a fit from zero. With
# scikit-learn's default tolerance, a fit with weaker regularisation would stop at once at the weights it starts from.
TOLERANCE, MAX_ITERATIONS = 1e-6, 1000
PACKAGES = ("sklearn.linear_model", "sklearn.neighbors", "sklearn.preprocessing", "sklearn.metrics")


def require_probes(purpose: str) -> None:
    """Check that scikit-learn is installed before training starts.

    Raises:
        UserError: scikit-learn is not installed.
    """
    for package in PACKAGES:
        import_optional(package, purpose)


def missing_classes(labels: np.ndarray, classes: Sequence[str]) -> dict[str, str]:
    """Return the classes that cannot be learnt, since training labels, N K, lack positives or negatives, and which."""
    return {
        name: f"{reason} in the training split"
        for name, column in zip(classes, labels.T, strict=True)
        if (reason := missing_class(column))
    }


def knn_scores(train: Predictions, values: np.ndarray, *, neighbours: int) -> np.ndarray:
    """Compute the share of positives among the labelled training samples at the smallest angle, N K.

    Args:
        train: features and labels of the training samples.
        values: features to score, N F.
        neighbours: number of neighbours; all labelled samples if there are fewer.
    """
    search = import_optional("sklearn.neighbors", "kNN")
    unit = import_optional("sklearn.preprocessing", "kNN").normalize
    scores = np.zeros((len(values), train.labels.shape[1]))
    # One search for all classes whose labels are known for the same samples; mostly these are all classes.
    masks, group = np.unique(~np.isnan(train.labels), axis=1, return_inverse=True)
    for number, known in enumerate(masks.T):
        columns = np.flatnonzero(group.reshape(-1) == number)
        if known.any():
            # For vectors of length one, the smallest angle is the smallest distance, which is faster to search by.
            model = search.KNeighborsRegressor(min(neighbours, int(known.sum())), algorithm="brute")
            model.fit(unit(train.values[known]), train.labels[known][:, columns])
            scores[:, columns] = model.predict(unit(values))
    return scores


class LinearProbe:
    """A logistic regression for every class on standardised features; unlabelled samples are left out.

    Args:
        train: features and labels of the training samples.
    """

    def __init__(self, train: Predictions) -> None:
        linear = import_optional("sklearn.linear_model", "the linear probe")
        self.scaler = import_optional("sklearn.preprocessing", "the linear probe").StandardScaler()
        self.inputs = self.scaler.fit_transform(train.values.astype(np.float64))
        self.labels = train.labels
        # With warm_start, each fit starts from the weights of the previous one.
        self.models: list[Any] = [
            None
            if missing_class(column)
            else linear.LogisticRegression(warm_start=True, tol=TOLERANCE, max_iter=MAX_ITERATIONS)
            for column in train.labels.T
        ]

    def fit(self, strength: float) -> "LinearProbe":
        """Fit with regularisation ``strength``, scikit-learn's C: smaller is stronger."""
        for model, column in zip(self.models, self.labels.T, strict=True):
            if model is not None:
                known = ~np.isnan(column)
                inputs = self.inputs if known.all() else self.inputs[known]
                model.set_params(C=strength).fit(inputs, column[known])
        return self

    def scores(self, values: np.ndarray) -> np.ndarray:
        """Return probabilities, N K, of features N F; 0 or 1 for a class that only has labels of 0 or of 1."""
        inputs = self.scaler.transform(values.astype(np.float64))
        columns = [
            np.full(len(inputs), float((labels == 1).any())) if model is None else model.predict_proba(inputs)[:, 1]
            for model, labels in zip(self.models, self.labels.T, strict=True)
        ]
        return np.stack(columns, axis=1)


def probe_auroc(
    scores: np.ndarray, features: Predictions, classes: Sequence[str], patients: Sequence[str],
    missing: dict[str, str], *, seed: int = 0, replicates: int = 0,
) -> Auroc:  # fmt: skip
    """Compute the AUROC of the classes that could be learnt.

    Args:
        scores: N K.
        features: features and labels of the scored samples.
        classes: K names.
        patients: patient ID of each sample of their split.
        missing: the classes that could not be learnt, and why.
        seed, replicates: seed and number of bootstrap resamples; with 0 resamples there are no intervals.
    """
    kept = [k for k, name in enumerate(classes) if name not in missing]
    found = auroc(
        scores[:, kept], features.labels[:, kept], [classes[k] for k in kept],
        patients=[patients[i] for i in features.indices], seed=seed, replicates=replicates,
    )  # fmt: skip
    return found._replace(missing=missing | found.missing)


def choose_strength(
    probe: LinearProbe, valid: Predictions, classes: Sequence[str], patients: Sequence[str], missing: dict[str, str]
) -> tuple[float, dict[str, float | None]]:
    """Choose the strength with the highest mean AUROC on the validation split, and fit the probe with it.

    Among equal ones, and if no class has an AUROC there, the strongest is chosen.

    Returns:
        The strength, and the mean AUROC of each strength, None where undefined.
    """
    tried: dict[float, float | None] = {}
    for strength in STRENGTHS:
        mean = probe_auroc(probe.fit(strength).scores(valid.values), valid, classes, patients, missing).mean
        tried[strength] = mean.value if mean else None
    best = max(STRENGTHS, key=lambda strength: tried[strength] or 0.0)
    probe.fit(best)
    return best, {f"{strength:g}": value for strength, value in tried.items()}
