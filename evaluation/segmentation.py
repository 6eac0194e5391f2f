"""Segment whole images in sliding windows, and compare the result with the truth."""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from evaluation.predictions import evaluating, require_finite
from losses.segmentation import dice_and_cross_entropy
from utils.distributed import gather, unwrapped
from utils.optional import import_optional
from utils.records import WholeCase

OVERLAP = 0.5  # of neighbouring windows, along each axis
WINDOWS_AT_ONCE = 4
PERCENTILE = 95.0  # of the distances between two surfaces; the maximum would depend on a single stray voxel
THRESHOLD = 0.5


class Inference(NamedTuple):
    """Settings for the segmentation of whole images."""

    window: tuple[int, ...]
    """Sides of a window in voxels: the crop size in training."""
    to_input: Callable[[Tensor], Tensor]
    """Maps windows with values in 0..1, B C *S, to inputs."""
    exclusive: bool
    """Whether a voxel belongs to at most one region, the most probable one."""
    device: torch.device


class CaseScore(NamedTuple):
    """Scores of one case."""

    case: int
    """Index of the case."""
    loss: float
    dice: list[float]
    """K; NaN where the region is empty in both truth and prediction."""
    distance: list[float]
    """K: the 95th percentile of the Hausdorff distance in mm; NaN if the region is empty in either, or not computed."""
    truth: list[int]
    """K: voxels of each region in the truth."""
    predicted: list[int]
    """K: voxels of each region in the prediction."""


def require_segmentation() -> None:
    """Check that MONAI is installed before training starts.

    Raises:
        UserError: MONAI is not installed.
    """
    for package in ("monai.inferers", "monai.metrics"):
        import_optional(package, "segmentation")


def window_logits(network: nn.Module, image: Tensor, inference: Inference) -> Tensor:
    """Map an image C *S to logits K *S on the CPU, by overlapping windows with the highest weight in their centre.

    An image smaller than a window is padded with 0.
    """
    windowed = import_optional("monai.inferers", "segmentation").sliding_window_inference
    found = windowed(
        image.unsqueeze(0), inference.window, WINDOWS_AT_ONCE, lambda x: network(inference.to_input(x)),
        overlap=OVERLAP, mode="gaussian", sw_device=inference.device, device=torch.device("cpu"),
    )  # fmt: skip
    return found[0]


def on_grid(x: Tensor, offset: Tensor, step: Tensor, size: Iterable[int]) -> Tensor:
    """Resample K *S to K *size by linear interpolation; positions beyond the border get the border's value.

    Args:
        x: K *S.
        offset, step: one per axis: voxel i of the result is at offset + step · i.
        size: size of the result.
    """
    for axis, (start, stride, length) in enumerate(zip(offset.tolist(), step.tolist(), size, strict=True), 1):
        if start == 0 and stride == 1 and length == x.shape[axis]:
            continue
        last = x.shape[axis] - 1
        position = (start + stride * torch.arange(length, dtype=torch.float64)).clamp(0, last)
        below = position.floor().clamp(max=max(last - 1, 0)).long()
        fraction = (position - below).to(x.dtype).view(-1, *[1] * (x.ndim - 1 - axis))
        low, high = x.index_select(axis, below), x.index_select(axis, (below + 1).clamp(max=last))
        x = torch.lerp(low, high, fraction)
    return x


def choose(probabilities: Tensor, *, exclusive: bool) -> Tensor:
    """Threshold probabilities K *S at one half, to bool; with ``exclusive``, only the most probable region is kept."""
    chosen = probabilities > THRESHOLD
    if exclusive and len(chosen) > 1:
        first = torch.arange(len(chosen)).view(-1, *[1] * (chosen.ndim - 1))
        chosen &= probabilities.argmax(dim=0, keepdim=True) == first
    return chosen


def dice_of(chosen: Tensor, truth: Tensor) -> list[float]:
    """Compute the Dice of each region of two masks, bool K *S; NaN where both are empty, 0 where one is."""
    found = import_optional("monai.metrics", "segmentation").compute_dice(
        chosen.unsqueeze(0).float(), truth.unsqueeze(0).float(), include_background=True, ignore_empty=False
    )[0]
    filled = (chosen | truth).flatten(1).any(dim=1)
    return [value if has else float("nan") for value, has in zip(found.tolist(), filled.tolist(), strict=True)]


def distance_of(chosen: Tensor, truth: Tensor, spacing: Tensor) -> list[float]:
    """Compute the 95th percentile of the Hausdorff distance of each region in mm; NaN where either is empty.

    Both masks are bool K *S; ``spacing`` is in mm. The result is the larger of the percentiles of both directions.
    """
    hausdorff = import_optional("monai.metrics", "segmentation").compute_hausdorff_distance
    distances = []
    for one, other in zip(chosen, truth, strict=True):
        if one.any() and other.any():
            pair = (x.unsqueeze(0).unsqueeze(0).float() for x in (one, other))
            with warnings.catch_warnings():
                # MONAI warns about an argument that it passes itself.
                warnings.simplefilter("ignore", FutureWarning)
                found = hausdorff(*pair, include_background=True, percentile=PERCENTILE, spacing=spacing.tolist())
            distances.append(found.item())
        else:
            distances.append(float("nan"))
    return distances


OnCase = Callable[[int, WholeCase, Tensor], None]
"""Called with the index of a case, the case, and its prediction on the truth's grid, bool K *N."""


@torch.no_grad()
def segment(
    module: nn.Module, cases: Iterable[tuple[list[int], WholeCase]], inference: Inference, *,
    on_case: OnCase | None = None,
) -> list[CaseScore]:  # fmt: skip
    """Segment the cases of all processes with the network in evaluation mode; every process must call it.

    Args:
        module: a :class:`engine.finetune.ForwardStep`, maybe replicated or distributed.
        cases: cases of this process, ([index], case on the CPU).
        inference: settings.
        on_case: called with each case. If given, predictions are compared with the truth on its original grid, and
            distances are computed; else they are compared on the network's grid, which is faster.

    Returns:
        The scores of all cases, in the order of their indices.
    """
    module = unwrapped(module)
    with evaluating(module):
        scores = [score_case(module, index, case, inference, on_case) for (index,), case in cases]
    return sorted(score for found in gather(scores) for score in found)


def score_case(
    network: nn.Module, index: int, case: WholeCase, inference: Inference, on_case: OnCase | None
) -> CaseScore:
    """Segment and score one case; if its outputs are not finite, its loss and scores are NaN."""
    logits = window_logits(network, case.image, inference)
    unknown = [float("nan")] * len(logits)
    if not logits.isfinite().all():
        return CaseScore(index, float("nan"), unknown, unknown, [0] * len(logits), [0] * len(logits))
    loss = dice_and_cross_entropy(logits.unsqueeze(0), case.mask.unsqueeze(0)).item()
    probabilities, truth, distance = logits.sigmoid_(), case.mask.bool(), unknown
    if on_case is not None:
        truth = case.truth.bool()
        probabilities = on_grid(probabilities, case.offset, case.step, truth.shape[1:])
    chosen = choose(probabilities, exclusive=inference.exclusive)
    if on_case is not None:
        distance = distance_of(chosen, truth, case.spacing)
        on_case(index, case, chosen)
    voxels = [x.flatten(1).sum(dim=1).tolist() for x in (truth, chosen)]
    return CaseScore(index, loss, dice_of(chosen, truth), distance, *voxels)


def segment_image(network: nn.Module, case: WholeCase, inference: Inference) -> Tensor | None:
    """Segment one image, bool K *N on the grid of its file; None if the network's outputs are not finite."""
    logits = window_logits(network, case.image, inference)
    if not logits.isfinite().all():
        return None
    probabilities = on_grid(logits.sigmoid_(), case.offset, case.step, case.truth.shape[1:])
    return choose(probabilities, exclusive=inference.exclusive)


def validation_numbers(scores: list[CaseScore]) -> dict[str, float]:
    """Return the mean loss, which chooses the best epoch, and the mean of all defined Dice values."""
    known = [dice for score in scores for dice in score.dice if np.isfinite(dice)]
    return {"valid_loss": mean_loss(scores)} | ({"valid_dice": float(np.mean(known))} if known else {})


def mean_loss(scores: Sequence[CaseScore]) -> float:
    """Return the mean loss over one or more cases."""
    return float(np.mean([score.loss for score in scores]))


def require_scores(scores: Sequence[CaseScore], *, split: str, name: Callable[[int], str]) -> None:
    """Require finite outputs for every case, since others have no score.

    Args:
        scores: scores of a split.
        split: name of the split, for the error message.
        name: returns the name of a case.

    Raises:
        UserError: outputs for some case are not finite, or there is no case.
    """
    require_finite([name(score.case) for score in scores], [math.isfinite(score.loss) for score in scores], split=split)
