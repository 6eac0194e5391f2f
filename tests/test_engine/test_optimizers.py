"""The optimizers that users name, and that a rejected step changes nothing."""

import copy

import pytest
import torch
from torch import nn

from engine.optimizers import build_optimizer


def built(name):
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    return layer, build_optimizer(name, layer.parameters(), lr=0.1, momentum=0.8, weight_decay=0.05)


def step(layer, optimizer, seed):
    for i, parameter in enumerate(layer.parameters()):
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(10 * seed + i))
    optimizer.step()


def test_adamw_is_torchs_with_0_9_and_0_95_and_decoupled_decay():
    (ours, optimizer), (plain, _) = built("adamw"), built("adamw")
    reference = torch.optim.AdamW(plain.parameters(), lr=0.1, betas=(0.9, 0.95), weight_decay=0.05)
    for seed in range(3):
        step(ours, optimizer, seed)
        step(plain, reference, seed)
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_sgd_has_the_momentum_and_decay_that_are_typed():
    _, optimizer = built("sgd")
    assert isinstance(optimizer, torch.optim.SGD)
    assert (optimizer.defaults["momentum"], optimizer.defaults["weight_decay"], optimizer.defaults["lr"]) == (
        0.8, 0.05, 0.1,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_step_that_the_guard_rejects_changes_nothing(name):
    layer, optimizer = built(name)
    step(layer, optimizer, 1)
    before, state = copy.deepcopy(layer.state_dict()), copy.deepcopy(optimizer.state_dict())
    optimizer.found_inf = torch.ones(())
    optimizer.grad_scale = None
    step(layer, optimizer, 2)
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())
    after = optimizer.state_dict()["state"]
    for index, values in state["state"].items():
        for key, value in values.items():
            assert torch.equal(torch.as_tensor(after[index][key]), torch.as_tensor(value)), (index, key)
