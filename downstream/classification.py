"""The classification tasks: findings of X-rays, nodule candidates, and labels of whole volumes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from data.catalog.list_folders import ListFolders
from data.catalog.xray_dataset import Selection
from data.datasets.candidates import CUBE, CandidateSplits, open_candidates
from data.datasets.classification import ClassificationSplits, open_classification
from data.inputs import AugmentedCubes, AugmentedInputs, eval_cubes, eval_inputs, flipped_windows
from data.labelled_volumes import VolumeSplits, open_labelled_volumes
from data.preprocess import PRETRAINED, Preprocessing, preprocessing_of
from data.readers.grey_levels import FROM_FILE
from downstream.tasks import ON_VOLUMES, Evaluator, Recipe, RunContext, Splits, on_inputs
from downstream.tuned import TunedNetwork
from evaluation.classification import Loss, validation_numbers
from evaluation.classification_report import report_classification
from evaluation.metrics import require_metrics
from losses.classification import balanced_cross_entropy, known_cross_entropy, windowed_cross_entropy
from utils.distributed import unwrapped
from utils.options import CLASSIFICATION, Options


def classification_recipe(
    context: RunContext, splits: Splits, *, network: TunedNetwork, augment: Callable[..., Any], evaluator: Evaluator,
    eval_loss: Loss = known_cross_entropy, loss: Loss = known_cross_entropy,
) -> Recipe:  # fmt: skip
    """Build the recipe of a classification.

    Args:
        context: options, processes and device of the run.
        splits: the data.
        network: names of the K classes, and how images are read.
        augment: maps a raw batch to (inputs, labels) of training.
        evaluator: computes the logits of a split.
        eval_loss: the loss on the validation and the test split.
        loss: the loss of training, of the outputs for inputs of ``augment``.
    """
    options, classes = context.options, network.outputs
    require_metrics()

    def validate(module: nn.Module) -> dict[str, Any]:
        predictions, _ = context.predict(unwrapped(module), splits.valid, evaluator, "validation")
        return validation_numbers(predictions, classes, splits.valid.patients, eval_loss)

    def test(module: nn.Module) -> dict[str, Any]:
        predictions, broken = context.predict(unwrapped(module), splits.test, evaluator, "test")
        if not context.world.is_main:
            return {}
        return {"broken_images": broken} | report_classification(
            predictions, classes, splits.test.patients, eval_loss, name=splits.test.name, seed=options.seed,
            output=Path(options.output),
        )  # fmt: skip

    return Recipe(splits, network.build, augment, loss, validate, test, network)


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
        augment=AugmentedInputs(options.global_size), evaluator=on_inputs(eval_inputs),
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
        augment=AugmentedCubes(), evaluator=on_inputs(eval_cubes), eval_loss=balanced_cross_entropy,
    )  # fmt: skip


def volume_preprocessing(options: Options) -> Preprocessing:
    """Return how the options make windows of volumes: as ``--weight`` saw them, but for what is typed."""
    found = PRETRAINED[3] if options.weight in (None, "none") else preprocessing_of(str(options.weight), 3)
    # Weights of a segmentation saw volumes in another way.
    found = PRETRAINED[3] if found.whole else found
    typed: dict[str, Any] = {"window": options.crop, "intensity": options.intensity, "spacing": options.spacing}
    return found._replace(**{name: value for name, value in typed.items() if value is not None})


def volume_splits(options: Options, lists: ListFolders) -> VolumeSplits:
    """Open a user's own labelled volumes: those of the list after its first ``--ratio``, and the test list."""
    return open_labelled_volumes(
        root=options.data, lists=lists, ratio=options.ratio, seed=options.seed, reading=volume_preprocessing(options),
        columns=options.labels, skip=options.skip, max_bad=options.max_bad, cache=options.cache,
    )  # fmt: skip


def volume_recipe(context: RunContext) -> Recipe:
    """Return the recipe for the labels of whole volumes, whose logits are the means of those of their windows."""
    splits, reading = volume_splits(context.options, context.lists), volume_preprocessing(context.options)
    return classification_recipe(
        context, splits, network=TunedNetwork(CLASSIFICATION, context.options.n, splits.classes, reading),
        augment=flipped_windows, evaluator=ON_VOLUMES, loss=windowed_cross_entropy,
    )  # fmt: skip
