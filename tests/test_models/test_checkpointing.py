"""Activations that are computed again give the same training to the bit, and are not kept."""

import pytest
import torch
from torch import nn

from benchmarks.speed.training import QUICK_SIZES, build_network, random_views
from engine.precision import Precision
from engine.pretrain import PretrainStep
from models.checkpointing import checkpoint_activations
from models.pretrained import load_weights

CPU = torch.device("cpu")


def train(d, *, checkpointed, steps=2):
    """The network and its gradients after some steps, and the numbers kept for the backward pass of the last."""
    model = build_network(d).train()
    names = list(model.state_dict())
    if checkpointed:
        checkpoint_activations(model)
    assert list(model.state_dict()) == names
    step = PretrainStep(model, Precision.choose(CPU, amp=False), torch.contiguous_format)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    torch.manual_seed(5)
    views = random_views(QUICK_SIZES[d], 2, CPU)
    for _ in range(steps):
        optimizer.zero_grad()
        kept: dict[int, int] = {}

        def keep(x, kept=kept):
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            total = step(views, [0, 1, 2] * 4 + [1], 0.7).terms.total
        total.backward()
        optimizer.step()
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    return model, sum(size for place, size in kept.items() if place not in parameters)


@pytest.mark.parametrize("d", [2, 3])
def test_training_is_the_same_to_the_bit_and_keeps_less(d, tmp_path):
    (plain, kept), (checkpointed, kept_less) = (train(d, checkpointed=flag) for flag in (False, True))
    for (name, a), b in zip(plain.state_dict().items(), checkpointed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    for (name, a), b in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None) and (a.grad is None or torch.equal(a.grad, b.grad)), name
    assert kept_less < 0.6 * kept
    torch.save({"state_dict": checkpointed.state_dict()}, tmp_path / "weights.pt")
    assert not load_weights(build_network(d), tmp_path / "weights.pt").missing


def test_a_replica_runs_its_own_blocks():
    model = build_network(3).train()
    checkpoint_activations(model)
    stage = model.down_tr512
    replica = stage._replicate_for_data_parallel()
    replica.ops = nn.Sequential(nn.Conv3d(256, 512, 1))
    assert replica(torch.ones(2, 256, 2, 2, 2))[1].grad_fn is not None
    assert torch.equal(stage.ops[0].bn1.num_batches_tracked, torch.tensor(0)), "the original's layers are not used"
