"""Report a segmentation on the test split: scores, pictures of slices and, on request, masks."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evaluation.metrics import means_of
from evaluation.pictures import Overlay, draw_overlays
from evaluation.results import OVERLAYS, PREDICTIONS, write_case_scores
from evaluation.segmentation import CaseScore, mean_loss
from utils.distributed import gather
from utils.records import WholeCase

# Number of rows of overlays.png; they show the first cases of the test split.
PICTURES = 6

SaveMask = Callable[[int, np.ndarray], None]
"""Called with the index of a case and its prediction, bool K *N."""


class CaseRecorder:
    """Collects slices for pictures and saves masks, case by case, since whole cases do not stay in memory.

    Args:
        save_mask: saves the mask of a case; None to save no masks.
    """

    def __init__(self, save_mask: SaveMask | None) -> None:
        self.save_mask = save_mask
        self.overlays: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def __call__(self, index: int, case: WholeCase, chosen: Tensor) -> None:
        if index < PICTURES:
            self.overlays[index] = slice_of(case, chosen)
        if self.save_mask is not None:
            self.save_mask(index, chosen.numpy())

    def gathered(self, name: Callable[[int], str]) -> list[Overlay]:
        """Gather the overlays of all processes, in the order of the cases; every process must call it."""
        everything = {index: planes for found in gather(self.overlays) for index, planes in found.items()}
        return [Overlay(name(index), *everything[index]) for index in sorted(everything)]


def slice_of(case: WholeCase, chosen: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the image H W, and truth and prediction, bool K H W, of a 2D case or of one slice of a volume.

    The slice is the one along z with the largest area of the truth; if the truth is empty, with the largest area of the
    prediction; if that is empty too, the first one.
    """
    truth = case.truth.bool()
    if truth.ndim == 3:
        # An image that was shrunk is sampled at the nearest pixels, so that the picture is on the truth's grid.
        return _nearest(case, None).numpy(), truth.numpy(), chosen.numpy()
    area = next((a for x in (truth, chosen) if (a := x.any(dim=0).sum(dim=(0, 1))).any()), torch.zeros(1))
    z = int(area.argmax())
    planes = (x[..., z].transpose(1, 2).numpy() for x in (truth, chosen))
    return (_nearest(case, z).T.numpy(), *planes)  # type: ignore[return-value]


def _nearest(case: WholeCase, z: int | None) -> Tensor:
    """Sample the first channel of the image at the truth's pixels, H W, or at one slice of its voxels, X Y."""
    image = case.image[0]
    lengths = case.truth.shape[1:]
    for axis in range(2):
        position = case.offset[axis] + case.step[axis] * torch.arange(lengths[axis], dtype=torch.float64)
        image = image.index_select(axis, position.round().long().clamp(0, image.shape[axis] - 1))
    if z is None:
        return image
    depth = round(float(case.offset[2] + case.step[2] * z))
    return image[..., min(depth, image.shape[2] - 1)]


def describe_segmentation(
    scores: Sequence[CaseScore], regions: Sequence[str], *, patients: Sequence[str], seed: int
) -> dict[str, Any]:
    """Return Dice and distance of every region with intervals over patients, and the number of empty regions.

    Dice is 0 if the region is empty in one of truth and prediction, and left out of the mean if it is empty in both.
    The distance is left out of the mean if the region is empty in at least one.
    """
    dice, distance = (np.array([getattr(s, name) for s in scores]) for name in ("dice", "distance"))
    truth, predicted = (np.array([getattr(s, name) for s in scores]) > 0 for name in ("truth", "predicted"))
    found: dict[str, Any] = {}
    for name, values in (("dice", dice), ("hd95", distance)):
        each, mean = means_of(values, patients, seed=seed)
        found[f"mean_{name}"] = mean._asdict() if mean else None
        found[name] = {
            region: {**(value._asdict() if value else {"value": None}), "cases": int(np.isfinite(column).sum())}
            for region, value, column in zip(regions, each, values.T, strict=True)
        }
    found["empty_regions"] = {
        region: {"in_both": int((~t & ~p).sum()), "missed": int((t & ~p).sum()), "invented": int((~t & p).sum())}
        for region, t, p in zip(regions, truth.T, predicted.T, strict=True)
    }
    return found


def report_segmentation(
    scores: Sequence[CaseScore], overlays: Sequence[Overlay], regions: Sequence[str], patients: Sequence[str], *,
    name: Callable[[int], str], seed: int, output: Path,
) -> dict[str, Any]:  # fmt: skip
    """Write scores and pictures; return the entries for ``results.json``.

    Args:
        scores: scores of the test cases.
        overlays: slices of some of them.
        regions: K names.
        patients: patient ID of each test case.
        name: returns the name of a case.
        seed: seed of the bootstrap.
        output: the run's folder.
    """
    patient_ids = [patients[score.case] for score in scores]
    found = describe_segmentation(scores, regions, patients=patient_ids, seed=seed)
    write_case_scores(output / PREDICTIONS, [name(score.case) for score in scores], scores, regions)
    if overlays:
        draw_overlays(output / OVERLAYS, overlays, regions)
    for region in regions:
        counts = found["empty_regions"][region]
        if any(counts.values()):
            print(
                f"{region}: empty in truth and prediction of {counts['in_both']} cases (not counted), missed in "
                f"{counts['missed']}, invented in {counts['invented']} (both Dice 0, no distance)", file=sys.stderr
            )  # fmt: skip
        value = found["dice"][region]["value"]
        print(f"test: Dice of {region} " + ("none" if value is None else f"{value:.4f}"), file=sys.stderr)
    return {
        "test_images": len(scores),
        "test_patients": len(set(patient_ids)),
        "test_loss": mean_loss(scores),
        **found,
    }
