"""The probes of an encoder as a command: what is fitted on which split, and what they leave."""

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
    """Make the folder, unless it holds something else.

    Args:
        output: the run's folder.
        is_main: False for the processes that must not write.

    Raises:
        UsageError: it holds results or a run that trains.
        UserError: it cannot be made.
    """
    for name in (RESULTS, "state"):
        if (output / name).exists():
            raise UsageError(f"--output: {output} holds {name} of another run already; name another folder")
    if is_main:
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--output: cannot write in {output}: {error.strerror or error}") from error


def beside(output: Path, file: str, kind: str) -> Path:
    """``predictions.csv`` of the probe ``knn`` is ``predictions_knn.csv``."""
    path = output / file
    return path.with_name(f"{path.stem}_{kind}{path.suffix}")


def run_probes(
    features: Mapping[str, Predictions], classes: Sequence[str], patients: Mapping[str, Sequence[str]], *,
    neighbours: int, name: Callable[[int], str], seed: int, output: Path,
) -> dict[str, Any]:  # fmt: skip
    """Fit on the training split, choose on the validation split, look at the test split once.

    Args:
        features: of the splits ``train``, ``valid`` and ``test``.
        classes: K names.
        patients: patient ID of each sample of each split.
        neighbours: of kNN.
        name: of a test sample.
        seed: of the bootstrap.
        output: the run's folder.

    Returns:
        What ``results.json`` holds of them.
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
    """Predictions and ROC curves of both probes, and what they come to on stderr."""
    names = [name(i) for i in test.indices]
    for kind, values in scores.items():
        write_predictions(beside(output, PREDICTIONS, kind), names, values, test.labels, classes)
        kept = [k for k, name_ in enumerate(classes) if name_ in found[kind].per_class]
        picture = beside(output, ROC, kind)
        draw_roc(picture, values[:, kept], test.labels[:, kept], [classes[k] for k in kept], found[kind])
    for missing, reason in found[KNN].missing.items():
        where = "" if "training split" in reason else " in the test split"
        print(f"{missing}: {reason}{where}, no AUROC", file=sys.stderr)
    for kind, value in found.items():
        if value.mean:
            print(f"test: mean AUROC {value.mean} ({kind})", file=sys.stderr)
