"""The loss of PCRLv2 (docs/reference.md, "Loss"): restoration of pixels, and similarity of embeddings across views.

Pure functions of tensors: :func:`draw_stages` makes all random draws, :func:`pcrlv2_loss` takes them as an argument.
"""

from collections.abc import Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.records import AS_PUBLISHED, LossTerms, LossWeights, Output


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


def similarity(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Tensor:
    """Symmetric negative cosine similarity of two views' (projection, prediction), each B F; a scalar in −1..1.

    This is sim(a, b, l) of docs/reference.md, "Loss". Projections get no gradient, which prevents collapse although
    there are no negatives.
    """
    (projection_a, prediction_a), (projection_b, prediction_b) = a, b
    a_to_b = F.cosine_similarity(prediction_a, projection_b.detach()).mean()
    b_to_a = F.cosine_similarity(prediction_b, projection_a.detach()).mean()
    return -0.5 * (a_to_b + b_to_a)


def local_view(local: Output, view: int, n_local: int, stage: int) -> tuple[Tensor, Tensor]:
    """Select (projection, prediction), each B F, of one local view and stage from V·B samples, view 0 first."""
    projection, prediction = local.embeddings[stage]
    return projection.chunk(n_local)[view], prediction.chunk(n_local)[view]


def pcrlv2_loss(
    view1: Output, view2: Output, local: Output, target: Tensor, *, stages: Sequence[int], beta: float,
    weights: LossWeights = AS_PUBLISHED,
) -> LossTerms:  # fmt: skip
    """Compute all loss terms of one step (docs/reference.md, "Loss").

    Args:
        view1: output of the first global view, with restorations.
        view2: output of the second global view; its restorations are not used.
        local: output of all local views as one batch of V·B samples, all of local view 0 first.
        target: B C *S, compared with the restorations of view 1.
        stages: 1 + 2V stages from :func:`draw_stages`.
        beta: weight of the intermediate restoration, ``utils.schedules.restoration_weight``.
        weights: what each term counts in ``total``.

    Returns:
        Five scalars; ``intermediate_restoration`` includes β, the terms do not include ``weights``.
    """
    l0, local_stages = stages[0], stages[1:]
    n_local = len(local_stages) // 2
    assert view1.restoration is not None, "the first global view must be run with restore=True"
    restoration = F.mse_loss(view1.restoration, target)
    intermediate = beta * F.mse_loss(view1.intermediate[l0], target)
    global_similarity = similarity(view1.embeddings[l0], view2.embeddings[l0])
    pairs = [
        similarity(view.embeddings[stage], local_view(local, i, n_local, stage))
        for i in range(n_local)
        for view, stage in ((view1, local_stages[2 * i]), (view2, local_stages[2 * i + 1]))
    ]
    local_similarity = torch.stack(pairs).mean() if pairs else torch.zeros_like(global_similarity)
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
