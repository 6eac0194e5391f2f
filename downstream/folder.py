"""The task of a user's own folder: its masks are segmented, or the labels of its table are classified."""

from pathlib import Path

from data.catalog.label_table import LABELS, has_labels
from data.datasets.segmentation import holds_masks
from downstream.classification import volume_recipe, xray_recipe
from downstream.segmentation import segmentation_recipe
from downstream.tasks import Recipe, RunContext
from utils.errors import UsageError, UserError
from utils.options import CLASSIFICATION, DEFAULTS, SEGMENTATION, Options

OF_OTHER_TASK = {
    CLASSIFICATION: ("classes", "skips", "save_masks", "norm"),
    SEGMENTATION: ("labels", "views", "invert", "spacing"),
}
"""Options that a task does not use."""
OF_SEGMENTED_VOLUMES = (None, "minmax", "ct")


def folder_recipe(context: RunContext) -> Recipe:
    """Return the recipe of the task that :func:`choose_task` finds."""
    options = context.options
    task = choose_task(options)
    unused = [name for name in OF_OTHER_TASK[task] if getattr(options, name) != DEFAULTS[name]]
    if task == SEGMENTATION and options.intensity not in (OF_SEGMENTED_VOLUMES if options.d == 3 else (None,)):
        unused.append(f"intensity {options.intensity}")
    if task == CLASSIFICATION and options.d == 2 and options.cache:
        unused.append("cache")
    if unused:
        raise UsageError(f"--{unused[0]} is not for {task}, the task of --data {options.data}; see --task")
    if task == SEGMENTATION:
        return segmentation_recipe(context)
    return xray_recipe(context) if options.d == 2 else volume_recipe(context)


def choose_task(options: Options) -> str:
    """Return ``--task`` or, without it, the task that the files in the folder are for.

    Raises:
        UserError: there are both masks and a table of labels, or neither.
    """
    if options.task is not None:
        return options.task
    root = Path(options.data)
    masks, labels = holds_masks(root), options.labels is not None or has_labels(root / LABELS)
    if masks == labels:
        found = "both" if masks else "neither"
        advice = f"give --task {SEGMENTATION} or --task {CLASSIFICATION}" if masks else "see docs/data.md"
        raise UserError(
            f"--data: expected masks/ for segmentation or {LABELS} with columns of 0, 1 or blank for classification, "
            f"{root} has {found}; {advice}"
        )
    return SEGMENTATION if masks else CLASSIFICATION
