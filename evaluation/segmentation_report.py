"""What the one look at a segmentation's test split leaves: scores, pictures of slices and, where asked for, masks."""

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

# Rows of overlays.png, the first cases of the test split.
PICTURES = 6

SaveMask = Callable[[int, np.ndarray], None]
"""Given a case's index and the chosen regions, bool K *N."""


class CaseRecorder:
    """Takes from every test case what pictures and files need, since whole cases do not stay in memory.

    Args:
        save_mask: where the masks go, None for nowhere.
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
        """Of all processes, in the cases' order; every process must call it."""
        everything = {index: planes for found in gather(self.overlays) for index, planes in found.items()}
        return [Overlay(name(index), *everything[index]) for index in sorted(everything)]


def slice_of(case: WholeCase, chosen: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image H W, truth and prediction bool K H W: an image, or of a volume the slice in z with most of the truth.

    A volume without any of the truth shows the slice with most of the prediction, or its first.
    """
    truth = case.truth.bool()
    if truth.ndim == 3:
        # Of an image that was shrunk the nearest pixels, so that the picture is on the truth's grid.
        return _nearest(case, None).numpy(), truth.numpy(), chosen.numpy()
    area = next((a for x in (truth, chosen) if (a := x.any(dim=0).sum(dim=(0, 1))).any()), torch.zeros(1))
    z = int(area.argmax())
    planes = (x[..., z].transpose(1, 2).numpy() for x in (truth, chosen))
    return (_nearest(case, z).T.numpy(), *planes)  # type: ignore[return-value]


def _nearest(case: WholeCase, z: int | None) -> Tensor:
    """The first channel of the image at the truth's voxels, or at those of one slice: X Y (2D: H W)."""
    image = case.image[0]
    lengths = case.truth.shape[1:]
    for axis in range(2):
        place = case.offset[axis] + case.step[axis] * torch.arange(lengths[axis], dtype=torch.float64)
        image = image.index_select(axis, place.round().long().clamp(0, image.shape[axis] - 1))
    if z is None:
        return image
    depth = round(float(case.offset[2] + case.step[2] * z))
    return image[..., min(depth, image.shape[2] - 1)]


def describe_segmentation(
    scores: Sequence[CaseScore], regions: Sequence[str], *, patients: Sequence[str], seed: int
) -> dict[str, Any]:
    """Dice and distance of every region with their intervals over patients, and how empty regions were counted.

    Dice is 0 where only the truth or only the prediction has the region, and left out of the mean where neither has.
    The distance is left out of the mean where either has none.
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
    """Write scores and pictures; returns what ``results.json`` holds of them.

    Args:
        scores: of the test cases.
        overlays: of some.
        regions: K names.
        patients: patient ID of each test case.
        name: of a case.
        seed: of the bootstrap.
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
                f"{region}: not in truth nor prediction of {counts['in_both']} cases (not counted), missed in "
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
