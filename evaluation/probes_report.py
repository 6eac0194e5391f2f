"""Run both probes of an encoder on its three splits, and write their results."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.classification_report import describe_auroc
from evaluation.metrics import REPLICATES, Auroc
from evaluation.pictures import draw_roc
from evaluation.predictions import Predictions
from evaluation.probes import LinearProbe, choose_strength, knn_scores, missing_classes, probe_auroc
from evaluation.results import PREDICTIONS, RESULTS, ROC, write_predictions
from utils.errors import UsageError, UserError

KNN, LINEAR = "knn", "linear"


def claim_output(output: Path, *, is_main: bool) -> None:
    """Create the folder; refuse one with the results of another run.

    Args:
        output: the run's folder.
        is_main: False for the processes that must not write.

    Raises:
        UsageError: it contains results or the state of a training run.
        UserError: it cannot be created.
    """
    for name in (RESULTS, "state"):
        if (output / name).exists():
            raise UsageError(f"--output: {output} contains {name} of another run already; choose another folder")
    if is_main:
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--output: cannot write in {output}: {error.strerror or error}") from error


def probe_path(output: Path, file: str, kind: str) -> Path:
    """Return the path of a probe's file, for example ``predictions_knn.csv`` for ``predictions.csv`` and ``knn``."""
    path = output / file
    return path.with_name(f"{path.stem}_{kind}{path.suffix}")


def run_probes(
    features: Mapping[str, Predictions], classes: Sequence[str], patients: Mapping[str, Sequence[str]], *,
    neighbours: int, name: Callable[[int], str], seed: int, output: Path,
) -> dict[str, Any]:  # fmt: skip
    """Fit on the training split, choose the regularisation on the validation split, evaluate once on the test split.

    Args:
        features: features and labels of the splits ``train``, ``valid`` and ``test``.
        classes: K names.
        patients: patient ID of each sample of each split.
        neighbours: number of neighbours of kNN.
        name: returns the name of a test sample.
        seed: seed of the bootstrap.
        output: the run's folder.

    Returns:
        The entries for ``results.json``.
    """
    train, valid, test = (features[split] for split in ("train", "valid", "test"))
    missing = missing_classes(train.labels, classes)
    probe = LinearProbe(train)
    strength, tried = choose_strength(probe, valid, classes, patients["valid"], missing)
    on_valid = probe_auroc(
        knn_scores(train, valid.values, neighbours=neighbours), valid, classes, patients["valid"], missing
    ).mean  # fmt: skip
    scores = {KNN: knn_scores(train, test.values, neighbours=neighbours), LINEAR: probe.scores(test.values)}
    found = {
        kind: probe_auroc(values, test, classes, patients["test"], missing, seed=seed, replicates=REPLICATES)
        for kind, values in scores.items()
    }
    write_probes(scores, found, test, classes, name=name, output=output)
    return {
        "train_images": len(train.indices),
        "valid_images": len(valid.indices),
        "test_images": len(test.indices),
        "test_patients": len({patients["test"][i] for i in test.indices}),
        "neighbours": neighbours,
        "strength": strength,
        "valid_mean_auroc": {KNN: on_valid.value if on_valid else None, LINEAR: tried},
        **{kind: describe_auroc(value, test.labels, classes) for kind, value in found.items()},
    }


def write_probes(
    scores: Mapping[str, np.ndarray], found: Mapping[str, Auroc], test: Predictions, classes: Sequence[str], *,
    name: Callable[[int], str], output: Path,
) -> None:  # fmt: skip
    """Write predictions and ROC curves of both probes, and print their mean AUROC to stderr."""
    names = [name(i) for i in test.indices]
    for kind, values in scores.items():
        write_predictions(probe_path(output, PREDICTIONS, kind), names, values, test.labels, classes)
        kept = [k for k, name_ in enumerate(classes) if name_ in found[kind].per_class]
        picture = probe_path(output, ROC, kind)
        draw_roc(picture, values[:, kept], test.labels[:, kept], [classes[k] for k in kept], found[kind])
    for missing, reason in found[KNN].missing.items():
        where = "" if "training split" in reason else " in the test split"
        print(f"{missing}: {reason}{where}, no AUROC", file=sys.stderr)
    for kind, value in found.items():
        if value.mean:
            print(f"test: mean AUROC {value.mean} ({kind})", file=sys.stderr)
