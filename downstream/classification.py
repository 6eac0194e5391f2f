"""Classification as a task: X-rays and nodule candidates."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from data.catalog.labels import CLASSES
from data.datasets.candidates import CUBE, open_candidates
from data.datasets.classification import ClassificationSplits, open_classification
from data.inputs import AugmentedCubes, AugmentedInputs, eval_cubes, eval_inputs
from downstream.tasks import Recipe, RunContext, Split, Splits, broken_samples, weight_file
from evaluation.classification import report_test
from evaluation.classification import validation_numbers as classification_numbers
from evaluation.metrics import require_metrics
from evaluation.predictions import Predictions, gather_predictions, predict
from losses.classification import balanced_cross_entropy, known_cross_entropy
from models.classification import build_classifier
from utils.distributed import unwrapped
from utils.options import Options


def classification_of(
    place: RunContext, parts: Splits, *, classes: Sequence[str], augment: Callable[..., Any], plain: Callable[..., Any],
    judge: Callable[[Tensor, Tensor], Tensor],
) -> Recipe:  # fmt: skip
    """The recipe of a classification.

    Args:
        place: where the run computes.
        parts: the data.
        classes: K names.
        augment, plain: a raw batch to (inputs, labels), at random and as for evaluation.
        judge: the loss of the validation and test part.
    """
    options, world, device = place
    require_metrics()

    def said_of(module: nn.Module, part: Split) -> tuple[Predictions, dict[str, str]]:
        batches = place.every(part, max(1, options.b // world.size))
        return gather_predictions(predict(unwrapped(module), batches, plain, device)), broken_samples(batches)

    def validate(module: nn.Module) -> dict[str, float]:
        return classification_numbers(said_of(module, parts.valid)[0], classes, parts.valid.patients, judge)

    def test(module: nn.Module) -> dict[str, Any]:
        said, bad = said_of(module, parts.test)
        if not world.is_main:
            return {}
        part = parts.test
        return {"broken_images": bad} | report_test(
            said, classes, part.patients, judge, name=part.name, seed=options.seed, output=Path(options.output)
        )

    build = partial(build_classifier, dim=options.d, classes=len(classes), weights=weight_file(options))
    return Recipe(parts, build, augment, known_cross_entropy, validate, test)


def xray_splits(options: Options, ratio: float) -> ClassificationSplits:
    """Labelled chest X-rays: the list after ``ratio``, and the test list."""
    return open_classification(
        name=options.n, root=options.data, lists=options.lists, ratio=ratio, seed=options.seed,
        size=options.global_size, uncertain=options.uncertain, longest=options.image_size,
    )  # fmt: skip


def xray_recipe(place: RunContext) -> Recipe:
    """14 findings of chest X-rays."""
    options = place.options
    return classification_of(
        place, xray_splits(options, options.ratio), classes=CLASSES[options.n],
        augment=AugmentedInputs(options.global_size), plain=eval_inputs, judge=known_cross_entropy,
    )  # fmt: skip


def candidate_recipe(place: RunContext) -> Recipe:
    """Nodules of chest CT against false positives; training sees as many of each, and the judge counts them alike."""
    options = place.options
    parts = open_candidates(
        root=options.data, lists=options.lists, ratio=options.ratio, seed=options.seed, cube=options.crop or CUBE
    )
    return classification_of(
        place, parts, classes=("nodule",), augment=AugmentedCubes(), plain=eval_cubes, judge=balanced_cross_entropy
    )
