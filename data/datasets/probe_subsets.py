"""What probes of frozen features look at: every sample as evaluation shows it, or a seeded share of them."""

from data.catalog.names import NameList
from data.datasets.candidates import REPEATS, BalancedCubes, CandidateCubes, Candidates
from data.datasets.classification import LabelledFiles
from data.datasets.images import ImageFiles
from utils.seeding import numpy_generator


def eval_images(part: LabelledFiles, size: int, *, at_most: int | None = None, seed: int = 0) -> LabelledFiles:
    """Images cut to their centre, as for evaluation.

    Args:
        part: whole or cut images.
        size: side in pixels.
        at_most: how many, None for all.
        seed: of which.
    """
    chosen = sorted(numpy_generator(seed, "probe").permutation(len(part))[:at_most].tolist())
    images = part.images
    names = NameList.of(images.name(i) for i in chosen)
    fewer = ImageFiles(images.folders, names, images.folder_of[chosen], max_side=images.max_side)
    return LabelledFiles(fewer, part.labels[chosen].numpy(), [part.patients[i] for i in chosen], central=size)


def eval_candidates(part: BalancedCubes) -> CandidateCubes:
    """Every nodule once, and at most ten times as many false positives: those that training shows first."""
    chosen = sorted([*part.nodules.tolist(), *part.others[: REPEATS * len(part.nodules)].tolist()])
    every = part.candidates
    fewer = Candidates(every.scans, every.of_scan[chosen], every.points[chosen], every.labels[chosen])
    return CandidateCubes(fewer, part.files, part.cube)
