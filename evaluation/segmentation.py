"""Segmentation of whole images, in windows, and how far the result is from the truth."""

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
PERCENTILE = 95.0  # of the distances between two surfaces: the largest alone is one stray voxel's
THRESHOLD = 0.5


class Inference(NamedTuple):
    """How whole images are segmented."""

    window: tuple[int, ...]
    """Voxels that the network sees at once: the crop that it was trained on."""
    to_input: Callable[[Tensor], Tensor]
    """Windows of 0..1, B C *S, to inputs."""
    exclusive: bool
    """Whether a voxel is of one region at most, then of the likeliest."""
    device: torch.device


class CaseScore(NamedTuple):
    """How one case was segmented."""

    case: int
    """Its index."""
    loss: float
    dice: list[float]
    """K, NaN where neither the truth nor the prediction has any of the region."""
    distance: list[float]
    """K: the 95th percentile of the Hausdorff distance, mm; NaN where either has none of the region, or unasked for."""
    truth: list[int]
    """K: voxels."""
    predicted: list[int]
    """K: voxels."""


def require_segmentation() -> None:
    """Fail before hours of training, not after.

    Raises:
        UserError: MONAI is not installed.
    """
    for package in ("monai.inferers", "monai.metrics"):
        import_optional(package, "segmentation")


def window_logits(network: nn.Module, image: Tensor, inference: Inference) -> Tensor:
    """C *S to logits K *S on the CPU, from overlapping windows that count most in their middle.

    An image smaller than a window is padded with 0 for it.
    """
    windowed = import_optional("monai.inferers", "segmentation").sliding_window_inference
    found = windowed(
        image.unsqueeze(0), inference.window, WINDOWS_AT_ONCE, lambda x: network(inference.to_input(x)),
        overlap=OVERLAP, mode="gaussian", sw_device=inference.device, device=torch.device("cpu"),
    )  # fmt: skip
    return found[0]


def on_grid(x: Tensor, offset: Tensor, step: Tensor, size: Iterable[int]) -> Tensor:
    """K *S to K *size by linear interpolation, the border's value beyond it.

    Args:
        x: K *S.
        offset, step: one an axis: voxel i of the result lies at offset + step · i.
        size: of the result.
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
    """K *S to bool K *S: above one half and, where regions exclude each other, the likeliest."""
    chosen = probabilities > THRESHOLD
    if exclusive and len(chosen) > 1:
        first = torch.arange(len(chosen)).view(-1, *[1] * (chosen.ndim - 1))
        chosen &= probabilities.argmax(dim=0, keepdim=True) == first
    return chosen


def dice_of(chosen: Tensor, truth: Tensor) -> list[float]:
    """Dice of each region, bool K *S both; NaN where both are empty, 0 where one is."""
    found = import_optional("monai.metrics", "segmentation").compute_dice(
        chosen.unsqueeze(0).float(), truth.unsqueeze(0).float(), include_background=True, ignore_empty=False
    )[0]
    filled = (chosen | truth).flatten(1).any(dim=1)
    return [value if has else float("nan") for value, has in zip(found.tolist(), filled.tolist(), strict=True)]


def distance_of(chosen: Tensor, truth: Tensor, spacing: Tensor) -> list[float]:
    """The 95th percentile of the Hausdorff distance of each region in mm, bool K *S both; NaN where either is empty.

    Of both directions the larger percentile counts.
    """
    hausdorff = import_optional("monai.metrics", "segmentation").compute_hausdorff_distance
    distances = []
    for one, other in zip(chosen, truth, strict=True):
        if one.any() and other.any():
            pair = (x.unsqueeze(0).unsqueeze(0).float() for x in (one, other))
            with warnings.catch_warnings():
                # Of an argument that MONAI gives itself.
                warnings.simplefilter("ignore", FutureWarning)
                found = hausdorff(*pair, include_background=True, percentile=PERCENTILE, spacing=spacing.tolist())
            distances.append(found.item())
        else:
            distances.append(float("nan"))
    return distances


OnCase = Callable[[int, WholeCase, Tensor], None]
"""Given every case's index, the case, and the regions chosen on the truth's grid, bool K *N."""


@torch.no_grad()
def segment(
    module: nn.Module, cases: Iterable[tuple[list[int], WholeCase]], inference: Inference, *,
    on_case: OnCase | None = None,
) -> list[CaseScore]:  # fmt: skip
    """Segment every case of every process, the network in evaluation mode; every process must call it.

    Args:
        module: a :class:`engine.finetune.ForwardStep`, maybe replicated or distributed.
        cases: of this process: (its index, the case on the CPU).
        inference: how.
        on_case: given, cases are compared with the truth as it came, distances are measured, and it is called with all
            of them; else they are compared with the truth on the network's grid, which is quicker.

    Returns:
        Scores by index.
    """
    module = unwrapped(module)
    with evaluating(module):
        scores = [score_case(module, index, case, inference, on_case) for (index,), case in cases]
    return sorted(score for found in gather(scores) for score in found)


def score_case(
    network: nn.Module, index: int, case: WholeCase, inference: Inference, on_case: OnCase | None
) -> CaseScore:
    """One case; without finite outputs its loss is NaN, and so are its scores."""
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


def validation_numbers(scores: list[CaseScore]) -> dict[str, float]:
    """The mean loss, which chooses the epoch, and the mean Dice of all regions that are there."""
    known = [dice for score in scores for dice in score.dice if np.isfinite(dice)]
    return {"valid_loss": mean_loss(scores)} | ({"valid_dice": float(np.mean(known))} if known else {})


def mean_loss(scores: Sequence[CaseScore]) -> float:
    """Over one case or more."""
    return float(np.mean([score.loss for score in scores]))


def require_scores(scores: Sequence[CaseScore], *, split: str, name: Callable[[int], str]) -> None:
    """No number can be told from outputs that are not finite.

    Args:
        scores: of a split.
        split: which one, for the error.
        name: of a case.

    Raises:
        UserError: some case has none that are, or there is no case.
    """
    require_finite([name(score.case) for score in scores], [math.isfinite(score.loss) for score in scores], split=split)
