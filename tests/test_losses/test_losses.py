"""The loss: against golden steps, a slow independent reference, properties, and by hand."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from losses.pcrlv2 import draw_stages, pcrlv2_loss, similarities, spread, stage_tensor
from models.pcrlv2_model import PCRLv2
from models.pcrlv2_model_3d import PCRLv23d
from tests.devices import DEVICES
from tests.golden_numbers import fill, normal, read_json
from utils.records import LossWeights, Output
from utils.schedules import learning_rate, restoration_weight, warmup_factor

MODELS = {2: lambda: PCRLv2(encoder_weights=None), 3: PCRLv23d}
TERMS = ("restoration", "intermediate_restoration", "global_similarity", "local_similarity", "total")


def golden_step(model: nn.Module, golden: dict, dim: int, index: int, device: torch.device):
    batch, step = golden["batch"], golden["steps"][index]

    def draw(name: str, shape: list[int]) -> Tensor:
        return normal(name, (batch, *shape)).to(device)

    x1, x2, target = (draw(f"{view}_{dim}_{index}", golden["view_shape"]) for view in ("x1", "x2", "gt"))
    local = [draw(f"local_{dim}_{index}_{i}", golden["local_shape"]) for i in range(6)]
    outputs = model(x1), model(x2, restore=False), model(torch.cat(local), restore=False)
    beta = restoration_weight(step["epoch"])
    assert beta == pytest.approx(step["beta"], rel=1e-12)
    return pcrlv2_loss(*outputs, target, stages=step["level_draws"], beta=beta)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dim", [2, 3])
def test_three_training_steps_meet_the_golden_numbers(dim, device):
    golden = read_json(f"train_{dim}d.json")
    model = fill(MODELS[dim]()).train().to(device)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=golden["lr"], momentum=golden["momentum"], weight_decay=golden["weight_decay"]
    )
    for index, expected in enumerate(golden["steps"]):
        # The golden steps ran on a torch whose zero_grad drops gradients: what was not drawn stood still.
        optimizer.zero_grad(set_to_none=True)
        terms = golden_step(model, golden, dim, index, device)
        terms.total.backward()
        for name in TERMS:
            assert getattr(terms, name).item() == pytest.approx(expected[name], rel=1e-8, abs=1e-12), name
        for name, parameter in model.named_parameters():
            norm = 0.0 if parameter.grad is None else parameter.grad.norm().item()
            assert norm == pytest.approx(expected["grad_norms"][name] or 0.0, rel=1e-6, abs=1e-10), name
        optimizer.step()
        for name, parameter in model.named_parameters():
            assert parameter.norm().item() == pytest.approx(expected["param_norms_after"][name], rel=1e-6), name
        for name, buffer in model.named_buffers():
            if "deep_supervision_head" not in name:
                norm = buffer.double().norm().item()
                assert norm == pytest.approx(expected["buffer_norms_after"][name], rel=1e-6), name


def make_output(batch: int, widths: tuple[int, ...], seed: int, *, restore: bool = False) -> Output:
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)

    images = [randn(batch, 1, 4, 6) for _ in widths] if restore else []
    return Output(
        randn(batch, 1, 4, 6) if restore else None, [(randn(batch, w), randn(batch, w)) for w in widths], images
    )


def slow_loss(view1, view2, local, target, stages, beta):
    """The reference page's formulas with loops over samples, in NumPy."""

    def cos(p, z):
        pairs = zip(p.detach().numpy(), z.detach().numpy(), strict=True)
        return np.mean([a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs])

    def sim(a, b):
        return -0.5 * (cos(a[1], b[0]) + cos(b[1], a[0]))

    batch, n_local = len(target), len(stages) // 2
    total_local = 0.0
    for i in range(n_local):
        for view, stage in ((view1, stages[1 + 2 * i]), (view2, stages[2 + 2 * i])):
            rows = slice(i * batch, (i + 1) * batch)
            total_local += sim(view.embeddings[stage], tuple(e[rows] for e in local.embeddings[stage]))
    t = target.numpy()
    return (
        ((view1.restoration.detach().numpy() - t) ** 2).mean(),
        beta * ((view1.intermediate[stages[0]].detach().numpy() - t) ** 2).mean(),
        sim(view1.embeddings[stages[0]], view2.embeddings[stages[0]]),
        total_local / (2 * n_local),
    )


WIDTHS = (8, 4, 3)


def example(n_local=6, batch=3):
    view1, view2 = make_output(batch, WIDTHS, 1, restore=True), make_output(batch, WIDTHS, 2)
    local = make_output(n_local * batch, WIDTHS, 3)
    target = normal("target", (batch, 1, 4, 6))
    return view1, view2, local, target


def test_terms_equal_a_slow_independent_reference():
    stages = draw_stages(3, 6, torch.Generator().manual_seed(7))
    arguments = example()
    terms = pcrlv2_loss(*arguments, stages=stages, beta=0.3)
    expected = slow_loss(*arguments, stages, 0.3)
    np.testing.assert_allclose([t.item() for t in terms[1:]], expected, rtol=1e-12)
    assert terms.total.item() == pytest.approx(sum(expected), rel=1e-12)


def test_the_total_is_the_weighted_sum_of_the_terms():
    stages = draw_stages(3, 6, torch.Generator().manual_seed(7))
    weights = LossWeights(0.5, 0.0, 2.0, 3.0)
    terms = pcrlv2_loss(*example(), stages=stages, beta=0.3, weights=weights)
    expected = slow_loss(*example(), stages, 0.3)
    np.testing.assert_allclose([t.item() for t in terms[1:]], expected, rtol=1e-12)
    assert terms.total.item() == pytest.approx(0.5 * expected[0] + 2 * expected[2] + 3 * expected[3], rel=1e-12)


def test_a_term_of_weight_0_cannot_spoil_the_total():
    view1, view2, local, target = example()
    broken = view1._replace(restoration=view1.restoration * torch.inf)
    terms = pcrlv2_loss(broken, view2, local, target, stages=[0] * 13, beta=1.0, weights=LossWeights(restoration=0))
    assert terms.total.isfinite() and not terms.restoration.isfinite()


def test_every_local_view_and_both_global_views_change_the_loss():
    view1, view2, local, target = example()
    stages = [0] + [0, 1] * 6
    base = pcrlv2_loss(view1, view2, local, target, stages=stages, beta=1.0).local_similarity
    for i in range(6):
        changed = [tuple(e.detach().clone() for e in pair) for pair in local.embeddings]
        for stage in (0, 1):
            for e in changed[stage]:
                e[i * 3 : (i + 1) * 3] *= -1
        other = pcrlv2_loss(view1, view2, local._replace(embeddings=changed), target, stages=stages, beta=1.0)
        assert abs(other.local_similarity - base) > 1e-6, f"local view {i} does not change the loss"
    swapped = pcrlv2_loss(view1, view1, local, target, stages=stages, beta=1.0).local_similarity
    assert abs(swapped - base) > 1e-6


def test_projections_get_no_gradient_from_the_comparison():
    view1, view2, local, target = example()
    terms = pcrlv2_loss(view1, view2, local, target, stages=[1] + [0, 2] * 6, beta=1.0)
    (terms.global_similarity + terms.local_similarity).backward()
    for output in (view1, view2, local):
        assert all(projection.grad is None for projection, _ in output.embeddings)
    assert all(view1.embeddings[stage][1].grad.abs().sum() > 0 for stage in (0, 1))
    assert view2.embeddings[0][1].grad.abs().sum() == 0 and view2.embeddings[2][1].grad.abs().sum() > 0


def test_similarity_by_hand():
    a = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0]])
    b = torch.tensor([[0.0, 3.0]]), torch.tensor([[5.0, 0.0]])
    # prediction a (2, 0) against projection b (0, 3): 0; prediction b (5, 0) against projection a (1, 0): 1
    (table,) = similarities([Output(None, [a], []), Output(None, [b], [])], 2, [0])
    assert table[0, 1].item() == table[1, 0].item() == pytest.approx(-0.5)
    assert table[0, 0].item() == pytest.approx(-1.0)


def test_stage_draws_are_uniform_and_seeded():
    draws = [draw_stages(5, 6, torch.Generator().manual_seed(s)) for s in range(600)]
    assert all(len(d) == 13 for d in draws)
    assert draws[3] == draw_stages(5, 6, torch.Generator().manual_seed(3))
    counts = np.bincount(np.array(draws).ravel(), minlength=5) / (600 * 13)
    np.testing.assert_allclose(counts, 0.2, atol=0.02)
    assert abs(np.corrcoef(np.array(draws).T)[0, 1:]).max() < 0.2


@pytest.mark.parametrize(("n_stages", "count"), [(5, 13), (3, 13), (2, 1), (1, 3), (5, 27), (5, 28), (3, 101)])
def test_stages_reach_the_device_as_they_were_drawn(n_stages, count):
    stages = draw_stages(n_stages, count // 2, torch.Generator().manual_seed(count))[:count]
    for some in (stages, [n_stages - 1] * count):
        assert stage_tensor(some, n_stages, torch.device("cpu")).tolist() == some


def test_stages_and_beta_may_be_tensors():
    stages = draw_stages(3, 6, torch.Generator().manual_seed(7))
    listed, as_tensors = example(), example()
    pcrlv2_loss(*listed, stages=stages, beta=0.3).total.backward()
    terms = pcrlv2_loss(*as_tensors, stages=torch.tensor(stages), beta=torch.tensor(0.3, dtype=torch.float64))
    terms.total.backward()
    np.testing.assert_allclose([t.item() for t in terms[1:]], slow_loss(*listed, stages, 0.3), rtol=1e-12)
    images = zip(listed[0].intermediate, as_tensors[0].intermediate, strict=True)
    assert all(torch.equal(b.grad, torch.zeros_like(b) if a.grad is None else a.grad) for a, b in images)
    for a, b in zip(listed[:3], as_tensors[:3], strict=True):
        pairs = zip(a.embeddings, b.embeddings, strict=True)
        assert all(torch.equal(p.grad, q.grad) for (_, p), (_, q) in pairs)


def test_spread_tells_collapse_from_diversity():
    same = torch.ones(64, 32)
    assert spread(Output(None, [(same, same)], [])).item() < 1e-6
    apart = torch.randn(4096, 32, generator=torch.Generator().manual_seed(0))
    assert spread(Output(None, [(apart, apart)], [])).item() == pytest.approx(1.0, abs=0.03)


def test_schedules_at_their_corners():
    assert learning_rate(0, 240, 1e-2) == 1e-2
    assert learning_rate(240, 240, 1e-2) == pytest.approx(0.0, abs=1e-18)
    assert learning_rate(60, 240, 1.0) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert learning_rate(0, 0, 1e-3) == 1e-3
    assert restoration_weight(0) == 1.0 and restoration_weight(120) == pytest.approx(0.5)
    assert restoration_weight(240) == pytest.approx(0.0, abs=1e-12)


def test_warm_up_rises_linearly_and_then_leaves_the_rate_alone():
    assert [warmup_factor(done, 2.5) for done in (0.25, 1.25, 2.5, 7.0)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert warmup_factor(0.01, 0.0) == 1.0
