"""Memory and arithmetic of a step are counted as a real step has them."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed.memory import CPU, Kept, count_step
from benchmarks.speed.training import QUICK_SIZES, build_network, random_views
from engine.precision import Precision
from engine.pretrain import PretrainStep
from models.checkpointing import checkpoint_activations
from utils.constants import constant


def real_step(d, *, checkpointed):
    model = build_network(d).train()
    if checkpointed:
        checkpoint_activations(model)
    layout = torch.channels_last if d == 2 else torch.channels_last_3d
    step, kept = PretrainStep(model, Precision.choose(CPU, amp=False), layout), Kept()
    with FlopCounterMode(display=False) as flop:
        with torch.autograd.graph.saved_tensors_hooks(kept.add, lambda x: x):
            total = step(random_views(QUICK_SIZES[d], 2, CPU), [0, 1, 2] * 4 + [0], 1.0).terms.total
        total.backward()
    return kept.size_without(list(model.parameters())), flop.get_total_flops()


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_step_is_counted_as_a_real_one(checkpointed):
    counted = count_step(3, batch=2, dtype=torch.float32, checkpointed=checkpointed, quick=True)
    kept, flop = real_step(3, checkpointed=checkpointed)
    assert counted.kept == pytest.approx(kept, rel=0.02) and counted.flop == flop
    assert counted.weights == pytest.approx(3 * 4 * 17.11e6, rel=1e-3)


def test_half_precision_keeps_about_half_and_recomputing_a_fraction():
    (full, half), (less, _) = (
        [count_step(2, batch=256, dtype=t, checkpointed=flag, quick=True) for t in (torch.float32, torch.bfloat16)]
        for flag in (False, True)
    )
    assert 0.5 * full.kept < half.kept < 0.8 * full.kept and less.kept < 0.6 * full.kept
    assert 1.2 * full.flop < less.flop < 1.4 * full.flop
    assert not isinstance(constant(1.0, CPU), FakeTensor), "constants without data would spoil all that follows"
