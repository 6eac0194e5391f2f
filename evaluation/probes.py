"""Two probes of frozen features: nearest neighbours, and logistic regression. Both are functions of arrays."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from evaluation.metrics import Auroc, auroc, missing_class
from evaluation.predictions import Predictions
from utils.optional import import_optional

# What the linear probe's regularisation is chosen from, strongest first; scikit-learn's C.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
# Tight enough that a fit which starts from another strength's weights ends where one from zero does: with
# scikit-learn's own tolerance, a weaker regularisation would find these weights good enough and leave them.
TOLERANCE, MAX_ITERATIONS = 1e-6, 1000
PACKAGES = ("sklearn.linear_model", "sklearn.neighbors", "sklearn.preprocessing", "sklearn.metrics")


def require_probes(purpose: str) -> None:
    """Fail before hours of training, not after.

    Raises:
        UserError: scikit-learn is not installed.
    """
    for package in PACKAGES:
        import_optional(package, purpose)


def missing_classes(labels: np.ndarray, classes: Sequence[str]) -> dict[str, str]:
    """The classes of which training labels, N K, hold one kind only, and what they lack: nothing can be learnt."""
    return {
        name: f"{lack} in the training split"
        for name, column in zip(classes, labels.T, strict=True)
        if (lack := missing_class(column))
    }


def knn_scores(train: Predictions, values: np.ndarray, *, neighbours: int) -> np.ndarray:
    """The share of positives among the training samples at the smallest angle, N K, for each class the labelled ones.

    Args:
        train: what neighbours are sought in.
        values: N F.
        neighbours: how many count; all, where there are fewer.
    """
    search = import_optional("sklearn.neighbors", "kNN")
    unit = import_optional("sklearn.preprocessing", "kNN").normalize
    scores = np.zeros((len(values), train.labels.shape[1]))
    # One search for all classes whose labels are known of the same samples, mostly all.
    masks, group = np.unique(~np.isnan(train.labels), axis=1, return_inverse=True)
    for number, known in enumerate(masks.T):
        columns = np.flatnonzero(group.reshape(-1) == number)
        if known.any():
            # Among vectors of length one the smallest angle is the smallest distance, which is quicker to search by.
            model = search.KNeighborsRegressor(min(neighbours, int(known.sum())), algorithm="brute")
            model.fit(unit(train.values[known]), train.labels[known][:, columns])
            scores[:, columns] = model.predict(unit(values))
    return scores


class LinearProbe:
    """A logistic regression for every class, on standardised features; unlabelled samples are left out.

    Args:
        train: what it learns from.
    """

    def __init__(self, train: Predictions) -> None:
        linear = import_optional("sklearn.linear_model", "the linear probe")
        self.scaler = import_optional("sklearn.preprocessing", "the linear probe").StandardScaler()
        self.inputs = self.scaler.fit_transform(train.values.astype(np.float64))
        self.labels = train.labels
        # Each strength starts from the weights of the one before.
        self.models: list[Any] = [
            None
            if missing_class(column)
            else linear.LogisticRegression(warm_start=True, tol=TOLERANCE, max_iter=MAX_ITERATIONS)
            for column in train.labels.T
        ]

    def fit(self, strength: float) -> "LinearProbe":
        """Learn with a regularisation, C: the smaller the stronger."""
        for model, column in zip(self.models, self.labels.T, strict=True):
            if model is not None:
                known = ~np.isnan(column)
                inputs = self.inputs if known.all() else self.inputs[known]
                model.set_params(C=strength).fit(inputs, column[known])
        return self

    def scores(self, values: np.ndarray) -> np.ndarray:
        """Probabilities, N K, of N F; of a class with labels of one kind only, that kind."""
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
    """AUROC of the classes that could be learnt.

    Args:
        scores: N K.
        features: what they were given for.
        classes: K names.
        patients: patient ID of each sample of their split.
        missing: the classes that could not be learnt, and why.
        seed, replicates: of the bootstrap; without replicates there are no intervals.
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
    """Try every strength, and leave the probe fitted with the one of the highest mean AUROC on the validation split.

    Among equals, and where no class has an AUROC there, it is the strongest.

    Returns:
        The strength, and the mean AUROC of every one, None where there is none.
    """
    tried: dict[float, float | None] = {}
    for strength in STRENGTHS:
        mean = probe_auroc(probe.fit(strength).scores(valid.values), valid, classes, patients, missing).mean
        tried[strength] = mean.value if mean else None
    best = max(STRENGTHS, key=lambda strength: tried[strength] or 0.0)
    probe.fit(best)
    return best, {f"{strength:g}": value for strength, value in tried.items()}
