"""Steps with bad losses or gradients change nothing and are recorded; absurd weights are never written."""

import json
import math
import warnings

import pytest
import torch

from engine.finetune import FinetuneTask
from engine.guard import LARGEST_JUMP, MEDIAN_STEPS, MIN_STEPS, StepGuard
from engine.meters import Meter, step_numbers
from engine.precision import Precision
from engine.weights import WeightsWriter
from tests.toys import CPU, ToyLoader, make_trainer
from utils.checkpoints import read_checkpoint
from utils.errors import UserError

GOOD = torch.tensor(0.0)


def plant(trainer, spoil, at=None):
    """Apply ``spoil`` to one gradient, in every step from now on or in step ``at``; the loss is not changed."""
    step, now = trainer.task.step, []
    trainer.task.step = lambda raw, epoch, number: (now.append((epoch, number)), step(raw, epoch, number))[1]
    weight = trainer.task.module[0].weight
    return weight.register_hook(lambda gradient: spoil(gradient) if at is None or now[-1] == at else gradient)


def snapshot(trainer):
    state = {k: v.clone() for k, v in trainer.task.module.state_dict().items() if "num_batches" not in k}
    return state | {i: s["momentum_buffer"].clone() for i, s in enumerate(trainer.optimizer.state.values())}


def assert_same(a, b):
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("spoil", [lambda g: g * torch.nan, lambda g: g * torch.inf, lambda g: g.fill_(1e33)])
@pytest.mark.parametrize("steps_before", [0, 5])
def test_a_step_with_spoilt_gradients_and_a_finite_loss_leaves_no_trace(tmp_path, spoil, steps_before):
    trainer = make_trainer(tmp_path)
    for step, (batch,) in zip(range(steps_before), ToyLoader().batches(0), strict=False):
        trainer.train_step((batch,), 0, step)
    before = snapshot(trainer)
    hook = plant(trainer, spoil)
    (batch,) = next(ToyLoader().batches(1))
    trainer.train_step((batch,), 1, 0)
    assert_same(before, snapshot(trainer))
    assert trainer.guard.read() == (1, False)
    hook.remove()
    trainer.train_step((batch,), 1, 1)
    assert trainer.guard.read() == (1, False) and not torch.equal(before["0.weight"], snapshot(trainer)["0.weight"])


def guard_of(*values):
    """A function that gives a gradient norm to a guard which has had these norms; returns whether the step is bad."""
    weight = torch.nn.Parameter(torch.zeros(1))
    guard = StepGuard(torch.nn.Identity(), torch.optim.SGD([weight], lr=1.0), CPU)

    def see(norm, loss=0.5, scale=None):
        weight.grad = torch.tensor([float(norm)])
        return guard.check(torch.tensor(loss), 0, scale).bad.item() == 1

    assert not any(see(value) for value in values)
    return see


def test_a_gradient_is_compared_with_the_running_median():
    see = guard_of(*[5.0] * MIN_STEPS)
    assert not see(5 * LARGEST_JUMP * 0.99) and see(5 * LARGEST_JUMP * 1.01)
    # One good outlier and any number of bad ones move no median.
    assert all(see(5 * LARGEST_JUMP * 1.01) for _ in range(MEDIAN_STEPS))
    # What grows slowly is training: the median follows.
    see = guard_of(*[1.1**step for step in range(100)])
    assert see(1.1 ** (100 - MEDIAN_STEPS / 2) * LARGEST_JUMP * 1.2)


def test_the_one_hard_batch_of_a_network_that_has_learnt_its_data_is_good():
    see = guard_of(*[1e-5] * MEDIAN_STEPS)
    assert not see(0.9 * LARGEST_JUMP) and see(1.1 * LARGEST_JUMP)


def test_first_gradients_are_compared_with_the_loss():
    assert not guard_of()(5e5) and guard_of()(5e6) and not guard_of()(5e6, loss=-100.0)


def test_an_overflow_of_fp16_is_the_scalers_and_an_absurd_gradient_is_not(tmp_path):
    scale = torch.tensor(1024.0)
    see = guard_of(*[1.0] * MIN_STEPS)
    assert not see(torch.inf, scale=scale) and not see(torch.nan, scale=scale)
    assert not see(1024.0 * 99, scale=scale), "norms are those of gradients without the scale"
    # The square of this is beyond float32, and the scaler would take the step.
    assert see(1e30, scale=scale)


def test_under_fp16_an_overflow_halves_the_scale_and_an_absurd_gradient_leaves_it(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.precision = Precision(CPU, torch.float16, torch.amp.GradScaler("cpu", init_scale=1024.0))
    batch = next(ToyLoader().batches(0))
    trainer.train_step(batch, 0, 0)
    unscaled = trainer.epoch_meter.read()["gradient_norm"]
    assert unscaled < 100
    for spoil, scale, skipped in ((lambda g: g * torch.inf, 512.0, 0), (lambda g: g * 1e20, 512.0, 1)):
        before, hook = snapshot(trainer), plant(trainer, spoil)
        trainer.train_step(batch, 0, 1)
        hook.remove()
        weights = {k: v for k, v in snapshot(trainer).items() if "running" not in str(k)}
        assert_same({k: before[k] for k in weights}, weights)
        assert trainer.precision.scaler.get_scale() == scale and trainer.guard.read() == (skipped, False)
    assert trainer.epoch_meter.read()["gradient_norm"] == unscaled, "what overflows has no norm"
    assert trainer.epoch_meter.read_steps() == (2, 1)


def test_the_norm_is_recorded_as_mean_and_maximum_of_the_good_steps(tmp_path):
    trainer, norms = make_trainer(tmp_path, epochs=0), []
    plant(trainer, lambda g: g * torch.nan, at=(0, 3))
    step = trainer.optimizer.step

    def step_and_record():
        gradients = torch.cat([p.grad.flatten() for p in trainer.task.module.parameters()])
        norms.append(gradients.double().norm().item())
        return step()

    trainer.optimizer.step = step_and_record
    trainer.fit()
    norms = [norm for norm in norms if math.isfinite(norm)]
    (line,) = lines_of(tmp_path)
    assert len(norms) == 4 and line["skipped_steps"] == 1
    assert line["gradient_norm"] == pytest.approx(sum(norms) / 4, rel=1e-6)
    assert line["gradient_norm_max"] == pytest.approx(max(norms), rel=1e-6)
    assert list(line).index("gradient_norm") == list(line).index("half") + 1, "beside the losses"


def test_a_resumed_run_keeps_the_norms_and_skips_the_same_steps(tmp_path):
    # Too large for the median of the first two epochs; a guard without their norms would accept it.
    runs = [make_trainer(tmp_path / name, epochs=2) for name in "abb"]
    for run in runs:
        plant(run, lambda g: g * 3000, at=(2, 1))
    unbroken, first, second = runs
    unbroken.fit()
    first.task.interrupt_at, interrupted = (2, 1), first.task.step
    first.task.step = interrupted
    with pytest.raises(KeyboardInterrupt):
        first.fit()
    second.fit(second.run_state.find("auto"))
    assert_same(snapshot(unbroken), snapshot(second))
    assert torch.equal(unbroken.guard.norms.nan_to_num(-1), second.guard.norms.nan_to_num(-1))
    assert lines_of(tmp_path / "a")[-1]["skipped_steps"] == lines_of(tmp_path / "b")[-1]["skipped_steps"] == 1


def test_a_meter_of_no_good_step_has_no_numbers():
    meter = Meter(CPU, maxima=["b"])
    assert meter.read() == {}
    meter.add(step_numbers({"a": torch.tensor(2.0), "b": torch.tensor(7.0)}, torch.tensor(1.0)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert meter.read() == {"a": None, "b": None, "b_max": None}
    meter.add(step_numbers({"a": torch.tensor(4.0), "b": torch.tensor(torch.nan)}, GOOD))
    meter.add(step_numbers({"a": torch.tensor(1.0), "b": torch.tensor(-3.0)}, GOOD))
    assert meter.read() == {"a": 2.5, "b": -3.0, "b_max": -3.0} and meter.read_steps() == (2, 1)
    again = Meter(CPU, maxima=["b"])
    again.load_state_dict(meter.state_dict())
    assert again.read() == meter.read() and again.read_steps() == (2, 1)
    meter.reset()
    assert meter.read() == {} and meter.read_steps() == (0, 0)


def test_an_epoch_without_a_good_step_has_no_loss_and_ends_the_run(tmp_path):
    trainer = make_trainer(tmp_path, spoilt=[(1, step) for step in range(5)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match="in all 5 of epoch 1 the loss or the gradients were not finite") as caught:
            trainer.fit()
    assert "\n" not in str(caught.value)
    good, bad = lines_of(tmp_path)
    assert isinstance(good["total"], float)
    assert [bad[n] for n in ("total", "half", "gradient_norm", "gradient_norm_max")] == [None] * 4
    assert bad["skipped_steps"] == 5
    assert json.loads((tmp_path / "run.json").read_text())["status"] == f"failed: {caught.value}"
    assert read_checkpoint(tmp_path / "state" / "last.pt")["position"] != [2, 0]


def test_skipped_steps_and_a_collapse_are_reported_at_the_end_of_the_epoch(tmp_path, capsys):
    trainer = make_trainer(tmp_path, spoilt=[(0, 2), (1, 0), (1, 1)])
    step = trainer.task.step

    def step_with_spread(raw, epoch, number):
        output = step(raw, epoch, number)
        output.numbers["projection_spread"] = torch.tensor(0.04 if epoch == 2 else 0.9)
        return output

    trainer.task.step = step_with_spread
    trainer.fit()
    lines = [line for line in capsys.readouterr().err.splitlines() if "skipped: their" in line or "collapsed" in line]
    assert [line.partition(" of 5 ")[0] for line in lines[:2]] == ["epoch 0: 1", "epoch 1: 2"]
    assert len(lines) == 3 and lines[2].startswith("epoch 2: the projections have collapsed: their spread is 0.04")


def spoil_weight(module):
    with torch.no_grad():
        module[0].weight[0, 0] = 1e30


def spoil_statistics(module):
    module[1].running_var[3] = torch.nan


def spoil_momentum(trainer):
    trainer.optimizer.state[trainer.task.module[0].weight]["momentum_buffer"][0, 0] = torch.inf


@pytest.mark.parametrize("spoil", [spoil_weight, spoil_statistics, spoil_momentum])
@pytest.mark.parametrize("within", [True, False])
def test_a_state_with_absurd_values_is_never_written(tmp_path, spoil, within):
    """Neither are weights, within an epoch or at its end; the last good state is kept."""
    written = []
    trainer = make_trainer(
        tmp_path, save_minutes=0.0 if within else 1e9, after_epoch=[lambda epoch, batch: written.append(epoch)]
    )
    train_step = trainer.train_step

    def spoil_after(batch, epoch, step):
        train_step(batch, epoch, step)
        if (epoch, step) == (1, 2 if within else 4):
            spoil(trainer if spoil is spoil_momentum else trainer.task.module)

    trainer.train_step = spoil_after
    with pytest.raises(UserError, match="training went wrong: .* has values") as caught:
        trainer.fit()
    assert "\n" not in str(caught.value) and str(tmp_path / "state") in str(caught.value)
    assert written == [0] and len(lines_of(tmp_path)) == 1
    assert read_checkpoint(tmp_path / "state" / "last.pt")["position"] == ([1, 2] if within else [1, 0])
    assert json.loads((tmp_path / "run.json").read_text())["status"].startswith("failed: training went wrong")


def test_absurd_weights_are_written_to_no_file(tmp_path):
    module = torch.nn.Module()
    module.model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.BatchNorm1d(8))
    spoil_statistics(module.model)
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    opt = {"model": "pcrlv2", "n": "luna", "phase": "pretask", "ratio": 1.0, "epochs": 1}

    def validate_once():
        task = FinetuneTask(
            module, make_inputs=None, loss=None, validate=lambda module: {"valid_loss": 0.5}, lr=1.0, seed=0,
            best_file=tmp_path / "best.pt",
        )  # fmt: skip
        return task.epoch_numbers(0)

    writer = WeightsWriter(tmp_path, opt, module.model.state_dict, optimizer)
    for write, name in (
        (lambda: writer(1, None), "pcrlv2_luna_pretask_1.0_1.pt"),
        (validate_once, "best.pt"),
    ):
        with pytest.raises(
            UserError, match=f"{name}: not written, since .*1.running_var has values that are not finite"
        ):
            write()
    assert not list(tmp_path.iterdir())
    module.model[1].running_var.fill_(1e9)  # a variance is a square
    writer(1, None)
    assert validate_once()["best_epoch"] == 0 and len(list(tmp_path.iterdir())) == 2
