"""The loss of PCRLv2 (docs/reference.md, "Loss"): restoration of pixels, and similarity of embeddings across views.

Pure functions of tensors: :func:`draw_stages` makes all random draws, :func:`pcrlv2_loss` takes them as an argument.
"""

import math
from collections.abc import Iterable, Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.constants import constant
from utils.records import AS_PUBLISHED, LossTerms, LossWeights, Output

# Smaller norms count as this, as in torch's cosine_similarity.
SMALLEST_NORM = 1e-8


def draw_stages(n_stages: int, n_local: int, generator: torch.Generator) -> list[int]:
    """Draw uniformly the decoder stage of each comparison of a step (docs/reference.md, "Loss").

    Args:
        n_stages: decoder stages, 5 in 2D and 3 in 3D.
        n_local: local views, V.
        generator: a CPU generator, seeded the same on every process of a run.

    Returns:
        1 + 2V stages: l0 of the two global views, then (u_i, v_i) for each local view i.
    """
    return torch.randint(n_stages, (1 + 2 * n_local,), generator=generator).tolist()


def similarities(outputs: Sequence[Output], n_views: int, stages: Iterable[int]) -> Tensor:
    """Symmetric negative cosine similarity of every two views at some stages, averaged over samples: S W W, −1..1.

    Entry (l, a, b) is sim(a, b, l) of docs/reference.md, "Loss". Projections get no gradient, which prevents collapse
    although there are no negatives. All views are compared at once, since each operation is a launch on a GPU; those
    that are not drawn get a gradient of 0.

    Args:
        outputs: with embeddings of one or more views each, view by view.
        n_views: number of views in all outputs together, W.
        stages: S different stages.
    """
    cosines = []
    for stage in stages:
        projections, predictions = (
            F.normalize(torch.cat(parts), dim=1, eps=SMALLEST_NORM)
            for parts in zip(*(output.embeddings[stage] for output in outputs), strict=True)
        )
        cosines.append(predictions.view(n_views, -1) @ projections.detach().view(n_views, -1).T)
    batch = len(predictions) // n_views
    means = torch.stack(cosines) / batch
    return -0.5 * (means + means.transpose(1, 2))


def stage_tensor(stages: Sequence[int] | Tensor, n_stages: int, device: torch.device) -> Tensor:
    """Stages as int64 on ``device``, without a copy from the host, which would have to wait for the device.

    They are the digits of a number, which an operation takes as its argument.
    """
    if isinstance(stages, Tensor):
        return stages
    digits = int(63 / math.log2(max(n_stages, 2)))  # of a 63-bit number
    numbers = [
        torch.full((), sum(stage * n_stages**i for i, stage in enumerate(some)), device=device)
        for some in (stages[start : start + digits] for start in range(0, len(stages), digits))
    ]
    powers = constant([n_stages**i for i in range(digits)], device, torch.int64)
    return (torch.stack(numbers).unsqueeze(1) // powers % n_stages).flatten()[: len(stages)]


def drawn_similarities(outputs: Sequence[Output], stages: Sequence[int] | Tensor) -> Tensor:
    """The similarities that the 1 + 2V stages of a step stand for, in their order; arguments as of the loss.

    Stages that the host knows not to be drawn are left out. Their heads then get no gradient.
    """
    compared_at = range(len(outputs[0].embeddings)) if isinstance(stages, Tensor) else sorted(set(stages))
    rows = stages if isinstance(stages, Tensor) else [compared_at.index(stage) for stage in stages]
    n_local = len(stages) // 2
    n_views = 2 + n_local
    table = similarities(outputs, n_views, compared_at)
    # The first view with the second, then both with each local view.
    pairs = [(0, 1), *((view, 2 + i) for i in range(n_local) for view in (0, 1))]
    places = constant([a * n_views + b for a, b in pairs], table.device, torch.int64)
    of_pairs = table.flatten(1).index_select(1, places)
    return of_pairs.gather(0, stage_tensor(rows, len(table), table.device).unsqueeze(0))[0]


def drawn_restoration(intermediate: Sequence[Tensor], stages: Sequence[int] | Tensor) -> Tensor:
    """The restoration of stage l0. If only the device knows l0, all are stacked, and those not drawn get gradient 0."""
    if isinstance(stages, Tensor):
        return torch.stack(list(intermediate)).index_select(0, stages[:1])[0]
    return intermediate[stages[0]]


def pcrlv2_loss(
    view1: Output, view2: Output, local: Output, target: Tensor, *, stages: Sequence[int] | Tensor,
    beta: float | Tensor, weights: LossWeights = AS_PUBLISHED,
) -> LossTerms:  # fmt: skip
    """Compute all loss terms of one step (docs/reference.md, "Loss").

    Args:
        view1: output of the first global view, with restorations.
        view2: output of the second global view; its restorations are not used.
        local: output of all local views as one batch of V·B samples, all of local view 0 first.
        target: B C *S, compared with the restorations of view 1.
        stages: 1 + 2V stages from :func:`draw_stages`; as a tensor on the device they may change between replays of a
            captured step.
        beta: weight of the intermediate restoration, ``utils.schedules.restoration_weight``.
        weights: what each term counts in ``total``.

    Returns:
        Five scalars; ``intermediate_restoration`` includes β, the terms do not include ``weights``.
    """
    n_local = len(stages) // 2
    assert view1.restoration is not None, "the first global view must be run with restore=True"
    restoration = F.mse_loss(view1.restoration, target)
    intermediate = beta * F.mse_loss(drawn_restoration(view1.intermediate, stages), target)
    drawn = drawn_similarities([view1, view2, local] if n_local else [view1, view2], stages)
    global_similarity, local_similarity = drawn[0], drawn[1:].mean() if n_local else torch.zeros_like(drawn[0])
    terms = (restoration, intermediate, global_similarity, local_similarity)
    return LossTerms(weighted_sum(terms, weights), *terms)


def weighted_sum(terms: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Add scalars times their weights; those of weight 0 are left out, since 0 times infinity would spoil the sum."""
    pairs = zip(terms, weights, strict=True)
    return reduce(torch.add, [term if weight == 1 else weight * term for term, weight in pairs if weight])


def spread(output: Output) -> Tensor:
    """Measure collapse: the spread of the projections over a batch, averaged over stages; a scalar.

    Per stage, the standard deviation over the batch of each entry of the L2-normalised projection, averaged and times
    √F: about 1 for projections in all directions, 0 if all are the same (SimSiam, section 4.1).
    """
    per_stage = [
        F.normalize(projection.detach().float(), dim=1).std(dim=0).mean() * projection.shape[1] ** 0.5
        for projection, _ in output.embeddings
    ]
    return torch.stack(per_stage).mean()
