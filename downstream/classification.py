"""The classification tasks: findings of X-rays, and nodule candidates."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from data.catalog.list_folders import ListFolders
from data.catalog.xray_dataset import Selection
from data.datasets.candidates import CUBE, CandidateSplits, open_candidates
from data.datasets.classification import ClassificationSplits, open_classification
from data.inputs import AugmentedCubes, AugmentedInputs, eval_cubes, eval_inputs
from data.preprocess import PRETRAINED, Preprocessing
from data.readers.grey_levels import FROM_FILE
from downstream.tasks import Recipe, RunContext, Split, Splits, broken_samples
from downstream.tuned import TunedNetwork
from evaluation.classification import validation_numbers
from evaluation.classification_report import report_classification
from evaluation.metrics import require_metrics
from evaluation.predictions import Predictions, gather_predictions, predict
from losses.classification import balanced_cross_entropy, known_cross_entropy
from utils.distributed import unwrapped
from utils.options import CLASSIFICATION, Options


def classification_recipe(
    context: RunContext, splits: Splits, *, network: TunedNetwork, augment: Callable[..., Any],
    make_eval_inputs: Callable[..., Any], eval_loss: Callable[[Tensor, Tensor], Tensor],
) -> Recipe:  # fmt: skip
    """Build the recipe of a classification.

    Args:
        context: options, processes and device of the run.
        splits: the data.
        network: names of the K classes, and how images are read.
        augment, make_eval_inputs: map a raw batch to (inputs, labels), with random augmentation and without.
        eval_loss: the loss on the validation and the test split.
    """
    options, world, device, _ = context
    classes = network.outputs
    require_metrics()

    def predict_split(module: nn.Module, split: Split, title: str) -> tuple[Predictions, dict[str, str]]:
        batches = context.eval_batches(split, max(1, options.b // world.size))
        own = predict(unwrapped(module), batches, make_eval_inputs, device)
        return gather_predictions(own, split=title, name=split.name), broken_samples(batches)

    def validate(module: nn.Module) -> dict[str, Any]:
        predictions, _ = predict_split(module, splits.valid, "validation")
        return validation_numbers(predictions, classes, splits.valid.patients, eval_loss)

    def test(module: nn.Module) -> dict[str, Any]:
        predictions, broken = predict_split(module, splits.test, "test")
        if not world.is_main:
            return {}
        return {"broken_images": broken} | report_classification(
            predictions, classes, splits.test.patients, eval_loss, name=splits.test.name, seed=options.seed,
            output=Path(options.output),
        )  # fmt: skip

    return Recipe(splits, network.build, augment, known_cross_entropy, validate, test, network)


def image_preprocessing(options: Options) -> Preprocessing:
    """Return how the options make inputs of X-rays."""
    return Preprocessing(
        2, (options.global_size,) * 2, options.intensity or FROM_FILE, image_size=options.image_size,
        invert=options.invert,
    )  # fmt: skip


def xray_splits(options: Options, lists: ListFolders, ratio: float) -> ClassificationSplits:
    """Open labelled chest X-rays: the images of the list after its first ``ratio``, and the test list."""
    return open_classification(
        name=options.n, root=options.data, lists=lists, ratio=ratio, seed=options.seed,
        size=options.global_size, uncertain=options.uncertain, columns=options.labels,
        max_bad=options.max_bad,
        spec=image_preprocessing(options).image_spec,
        selection=Selection(options.views, options.skip),
    )  # fmt: skip


def xray_recipe(context: RunContext) -> Recipe:
    """Return the recipe for findings of chest X-rays."""
    options = context.options
    splits = xray_splits(options, context.lists, options.ratio)
    return classification_recipe(
        context, splits, network=TunedNetwork(CLASSIFICATION, options.n, splits.classes, image_preprocessing(options)),
        augment=AugmentedInputs(options.global_size), make_eval_inputs=eval_inputs,
        eval_loss=known_cross_entropy,
    )  # fmt: skip


def candidate_splits(options: Options, lists: ListFolders) -> CandidateSplits:
    """Open labelled nodule candidates: the scans of the list after its first ``--ratio``, and the test scans."""
    return open_candidates(
        root=options.data, lists=lists, ratio=options.ratio, seed=options.seed, cube=options.crop or CUBE,
        max_bad=options.max_bad,
    )  # fmt: skip


def candidate_recipe(context: RunContext) -> Recipe:
    """Return the recipe for nodules of chest CT against false positives, which have equal weight in every split."""
    options = context.options
    splits = candidate_splits(options, context.lists)
    reading = PRETRAINED[3]._replace(window=tuple(options.crop or CUBE))
    return classification_recipe(
        context, splits, network=TunedNetwork(CLASSIFICATION, options.n, ("nodule",), reading),
        augment=AugmentedCubes(), make_eval_inputs=eval_cubes,
        eval_loss=balanced_cross_entropy,
    )  # fmt: skip
