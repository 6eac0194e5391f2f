"""Samples for probes of frozen features: those of a split, or a seeded subset, prepared as for evaluation."""

from data.catalog.names import NameList
from data.datasets.candidates import REPEATS, BalancedCubes, CandidateCubes, Candidates
from data.datasets.classification import LabelledFiles
from data.datasets.images import ImageFiles
from utils.seeding import numpy_generator


def eval_images(split: LabelledFiles, size: int, *, at_most: int | None = None, seed: int = 0) -> LabelledFiles:
    """Return images cropped to their centre, as for evaluation.

    Args:
        split: the images, whole or cropped.
        size: side in pixels.
        at_most: how many of them, None for all.
        seed: of the choice.
    """
    chosen = sorted(numpy_generator(seed, "probe").permutation(len(split))[:at_most].tolist())
    images = split.images
    names = NameList.of(images.name(i) for i in chosen)
    chosen_images = ImageFiles(images.folders, names, images.folder_of[chosen], spec=images.spec)
    return LabelledFiles(chosen_images, split.labels[chosen].numpy(), [split.patients[i] for i in chosen], central=size)


def eval_candidates(split: BalancedCubes) -> CandidateCubes:
    """Return every nodule once, and at most ten times as many false positives: the first that training uses."""
    chosen = sorted([*split.nodules.tolist(), *split.others[: REPEATS * len(split.nodules)].tolist()])
    points = split.candidates
    subset = Candidates(points.scans, points.scan_index[chosen], points.points[chosen], points.labels[chosen])
    return CandidateCubes(subset, split.files, split.cube)
