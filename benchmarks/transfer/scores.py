"""Numbers on the test part: area under the ROC curve, Dice of lungs and of nodules."""

import torch
from torch import Tensor

from benchmarks.transfer.networks import CLASSIFICATION, SEGMENTATION
from benchmarks.transfer.phantoms import REGIONS, Phantoms
from utils.optional import import_optional

THRESHOLDS = torch.linspace(0.05, 0.7, 27).tolist()
METRICS = ("nodule AUROC", "lung Dice", "nodule Dice")


def auroc(scores: Tensor, positive: Tensor) -> float:
    """Of N scores with N labels of 0 and 1."""
    return float(
        import_optional("sklearn.metrics", "AUROC").roc_auc_score(positive.cpu().numpy(), scores.cpu().numpy())
    )


def dice(found: Tensor, masks: Tensor) -> list[float]:
    """Per region, the mean over the images that show it; both bool or 0 and 1, N 2 S S."""
    overlap, total = (found * masks).sum(dim=(2, 3)).float(), (found.float() + masks).sum(dim=(2, 3))
    shown = masks.amax(dim=(2, 3)) > 0
    return [
        float((2 * o[s] / t[s]).mean()) if s.any() else float("nan")
        for o, t, s in zip(overlap.T, total.T, shown.T, strict=True)
    ]


def score(task: str, outputs: Tensor, truth: Phantoms, thresholds: Tensor | None = None) -> dict[str, float]:
    """The metrics of a task by name.

    Args:
        task: CLASSIFICATION or SEGMENTATION.
        outputs: N 1, the higher the likelier, or what thresholds are of, N 2 S S.
        truth: N images with labels.
        thresholds: per region, above which a pixel counts as found; 0 where none are given.
    """
    if task == CLASSIFICATION:
        return {"nodule AUROC": auroc(outputs[:, 0], truth.nodule[:, 0])}
    level = torch.zeros(len(REGIONS), device=outputs.device) if thresholds is None else thresholds
    values = dice(outputs > level[:, None, None], truth.masks)
    return dict(zip(("lung Dice", "nodule Dice"), values, strict=True))


def best_thresholds(outputs: Tensor, truth: Phantoms) -> Tensor:
    """Per region, the level of highest Dice of estimated shares, N 2 S S."""
    options = [score(SEGMENTATION, outputs, truth, torch.full((2,), t, device=outputs.device)) for t in THRESHOLDS]
    best = [max(range(len(options)), key=lambda i: options[i][name]) for name in options[0]]
    return torch.tensor([THRESHOLDS[i] for i in best], device=outputs.device)


def overall(numbers: dict[str, float]) -> float:
    """What choices on the validation part go by: the mean of a task's metrics."""
    return sum(numbers.values()) / len(numbers)
