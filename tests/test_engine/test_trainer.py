"""The loop: exact resume, bad steps, records and states."""

import contextlib
import json
import os
import signal

import pytest
import torch
from torch import nn

from engine.guard import LONGEST_STREAK
from engine.run_state import Position
from engine.stopping import Stopped
from engine.trainer import init_optimizer_state, match_memory_formats
from tests.toys import ToyLoader, make_trainer
from utils.checkpoints import on_cpu, read_checkpoint
from utils.errors import UsageError, UserError


def weights_of(trainer):
    return {k: v.clone() for k, v in trainer.task.module.state_dict().items()}


def assert_equal_bits(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("interrupt_at", [(0, 1), (1, 0), (1, 3), (2, 4)])
def test_interrupted_and_resumed_run_equals_an_unbroken_one_bit_for_bit(tmp_path, interrupt_at):
    unbroken = make_trainer(tmp_path / "a")
    unbroken.fit()
    first = make_trainer(tmp_path / "b")
    first.task.interrupt_at = interrupt_at
    with pytest.raises(KeyboardInterrupt):
        first.fit()
    second = make_trainer(tmp_path / "b")
    second.fit(second.run_state.find("auto"))
    assert_equal_bits(weights_of(unbroken), weights_of(second))
    lines = [(tmp_path / x / "metrics.jsonl").read_text().splitlines() for x in "ab"]
    for a, b in zip(*(map(json.loads, text) for text in lines), strict=True):
        assert {k: a[k] for k in ("epoch", "total", "half", "beta", "learning_rate")} == {
            k: b[k] for k in ("epoch", "total", "half", "beta", "learning_rate")
        }


def test_training_learns_and_records_every_epoch(tmp_path):
    trainer = make_trainer(tmp_path, epochs=12)
    trainer.fit()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(13))
    assert lines[-1]["total"] < 0.5 * lines[0]["total"]
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["status"] == "finished" and run["epochs_done"] == 13
    assert list((tmp_path / "tensorboard").iterdir())


def test_each_reading_of_the_losses_is_of_the_steps_since_the_last(tmp_path, monkeypatch):
    trainer, totals, read = make_trainer(tmp_path, epochs=1), [], []
    step = trainer.task.step

    def step_and_record(raw, epoch, number):
        output = step(raw, epoch, number)
        totals.append(output.total.item())
        return output

    trainer.task.step = step_and_record
    scalars = trainer.recorder.scalars
    monkeypatch.setattr(
        trainer.recorder,
        "scalars",
        lambda group, numbers, at: (read.append((group, at, numbers)), scalars(group, numbers, at)),
    )
    trainer.fit()
    found = {at: numbers["total"] for group, at, numbers in read if group == "step"}
    # Two steps each; the fifth of an epoch is in its means alone.
    assert found == pytest.approx({at: sum(totals[at - 2 : at]) / 2 for at in (2, 4, 7, 9)})
    means = [numbers["total"] for group, _, numbers in read if group == "epoch"]
    assert means == pytest.approx([sum(totals[:5]) / 5, sum(totals[5:]) / 5])


def test_a_bad_step_leaves_no_trace(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.run_epoch(0, 0)
    before = weights_of(trainer)
    momentum = [s["momentum_buffer"].clone() for s in trainer.optimizer.state.values()]
    (batch,) = next(ToyLoader(spoilt=[(1, 0)]).batches(1))
    trainer.train_step((batch,), 1, 0)
    after = weights_of(trainer)
    tracked = [k for k in before if "num_batches" not in k]
    assert_equal_bits({k: before[k] for k in tracked}, {k: after[k] for k in tracked})
    assert all(
        torch.equal(a, s["momentum_buffer"]) for a, s in zip(momentum, trainer.optimizer.state.values(), strict=True)
    )
    assert trainer.guard.read() == (1, False)
    (good,) = next(ToyLoader().batches(1))
    trainer.train_step((good,), 1, 0)
    assert not torch.equal(weights_of(trainer)["0.weight"], before["0.weight"])


def test_bad_steps_are_counted_and_kept_out_of_the_means(tmp_path):
    trainer = make_trainer(tmp_path, spoilt=[(0, 2), (1, 4)])
    trainer.fit()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["skipped_steps"] for line in lines] == [1, 2, 2]
    assert all(line["total"] == line["total"] for line in lines)


def test_many_bad_steps_in_a_row_end_the_run_and_keep_the_last_good_state(tmp_path):
    trainer = make_trainer(tmp_path, epochs=30)
    trainer.run_epoch(0, 0)
    before = weights_of(trainer)
    # The epoch needs more steps than that, or its end would stop the run first.
    trainer.loader.spoilt, trainer.loader.steps_per_epoch = {"all"}, LONGEST_STREAK + 5
    with pytest.raises(UserError, match=f"{LONGEST_STREAK} steps in a row"):
        trainer.fit(trainer.run_state.find("auto"))
    saved = read_checkpoint(tmp_path / "state" / "last.pt")["model"]
    tracked = [k for k in before if "num_batches" not in k]
    assert_equal_bits({k: before[k] for k in tracked}, {k: saved[k] for k in tracked})


def test_loss_above_1000_is_skipped_after_epoch_10_only(tmp_path):
    trainer = make_trainer(tmp_path, scale=1e6)
    (batch,) = next(ToyLoader().batches(0))
    trainer.train_step((batch,), 10, 0)
    assert trainer.guard.read() == (0, False)
    trainer.train_step((batch,), 11, 0)
    assert trainer.guard.read() == (1, False)


def test_momentum_and_weight_decay_apply_to_heads_that_a_step_does_not_use(tmp_path):
    trainer = make_trainer(tmp_path)
    (batch,) = next(ToyLoader().batches(0))
    trainer.train_step((batch,), 0, 1)
    before = trainer.task.module.odd_head.weight.clone()
    trainer.train_step((batch,), 0, 2)
    assert trainer.task.module.odd_head.weight.grad.abs().sum() == 0
    assert not torch.equal(before, trainer.task.module.odd_head.weight)


def test_an_option_changed_on_resume_is_refused_by_name(tmp_path):
    make_trainer(tmp_path, fixed={"lr": 0.05, "b": 4}).fit()
    with pytest.raises(UsageError, match="--resume: b was 4 .* and is 8 now"):
        make_trainer(tmp_path, fixed={"lr": 0.05, "b": 8}).run_state.find("auto")


def test_a_state_from_before_an_option_existed_is_of_a_run_with_its_default(tmp_path):
    make_trainer(tmp_path, fixed={"lr": 0.05}).fit()
    published = {"lr": 0.05, "loss_weights": [1.0, 1.0, 1.0, 1.0]}
    assert make_trainer(tmp_path, fixed=published).run_state.find("auto")
    with pytest.raises(UsageError, match="loss_weights was .*1.0. in .* and is .*0.0. now"):
        make_trainer(tmp_path, fixed=published | {"loss_weights": [1.0, 1.0, 1.0, 0.0]}).run_state.find("auto")


def test_a_folder_that_holds_a_run_is_not_overwritten(tmp_path):
    make_trainer(tmp_path).fit()
    with pytest.raises(UsageError, match="holds a run already"):
        make_trainer(tmp_path).run_state.find(None)


def test_a_damaged_last_state_is_replaced_by_the_one_before(tmp_path):
    make_trainer(tmp_path).fit()
    last = tmp_path / "state" / "last.pt"
    last.write_bytes(last.read_bytes()[:1000])
    state = make_trainer(tmp_path).run_state.find("auto")
    assert Position(*state["position"]) == Position(2, 4)
    (tmp_path / "state" / "previous.pt").write_bytes(b"")
    with pytest.raises(UserError, match="cut short"):
        make_trainer(tmp_path).run_state.find("auto")


def test_weights_are_not_a_state(tmp_path):
    torch.save({"state_dict": {"w": torch.ones(1)}}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="--init"):
        make_trainer(tmp_path).run_state.find(str(tmp_path / "w.pt"))


def test_a_signal_saves_and_stops_after_the_step(tmp_path):
    trainer = make_trainer(tmp_path, save_minutes=1e5)

    def signal_in_epoch_1(epoch, batch):
        trainer.signals.received = "SIGTERM" if epoch == 0 else None

    trainer.after_epoch = [signal_in_epoch_1]
    with pytest.raises(Stopped, match="SIGTERM before epoch 1 step 0"):
        trainer.fit()
    again = make_trainer(tmp_path)
    again.fit(again.run_state.find("auto"))
    unbroken = make_trainer(tmp_path / "other")
    unbroken.fit()
    assert_equal_bits(weights_of(unbroken), weights_of(again))


def test_short_epochs_are_not_all_saved_but_the_last_one_and_a_stop_are(tmp_path):
    def positions(folder, *, took, stop=None):
        trainer, saved = make_trainer(folder, epochs=4, save_minutes=1e5), []
        save = trainer.run_state.save

        def slow_save(position, content):
            saved.append(position.epoch)
            save(position, content)
            trainer.run_state.last_took = took

        def signal_in_epoch(epoch, batch):
            trainer.signals.received = "SIGTERM" if epoch == stop else None

        trainer.run_state.save, trainer.after_epoch = slow_save, [signal_in_epoch]
        with contextlib.suppress(Stopped):
            trainer.fit()
        return saved

    assert positions(tmp_path / "fast", took=0.0) == [1, 2, 3, 4, 5]
    assert positions(tmp_path / "slow", took=1e4) == [1, 5]
    assert positions(tmp_path / "stopped", took=1e4, stop=2) == [1, 3]
    again, unbroken = make_trainer(tmp_path / "stopped", epochs=4), make_trainer(tmp_path / "unbroken", epochs=4)
    again.fit(again.run_state.find("auto"))
    unbroken.fit()
    assert_equal_bits(weights_of(unbroken), weights_of(again))


def test_a_signal_in_the_last_epoch_stops_what_would_follow_and_the_run_is_whole(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    trainer = make_trainer(tmp_path, epochs=1)
    trainer.after_epoch = [lambda epoch, batch: os.kill(os.getpid(), signal.SIGTERM) if epoch == 1 else None]
    with pytest.raises(Stopped, match="stopped by SIGTERM after the last epoch"):
        trainer.fit()
    assert signal.getsignal(signal.SIGTERM) == before, "nobody asks the trainer any more"
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "finished"
    again = make_trainer(tmp_path, epochs=1)
    state = again.run_state.find("auto")
    again.fit(state)
    assert_equal_bits(weights_of(trainer), weights_of(again))


def test_a_resumed_optimizer_has_the_memory_format_of_its_channels_last_parameters(tmp_path):
    def make():
        torch.manual_seed(0)
        conv = nn.Conv3d(2, 3, 3).to(memory_format=torch.channels_last_3d)
        return conv, init_optimizer_state(torch.optim.SGD(conv.parameters(), lr=0.1, momentum=0.9, fused=True))

    def step(conv, optimizer, seed):
        optimizer.zero_grad(set_to_none=False)
        conv(torch.randn(2, 2, 4, 5, 6, generator=torch.Generator().manual_seed(seed))).square().mean().backward()
        optimizer.step()

    conv, optimizer = make()
    step(conv, optimizer, 1)
    saved = on_cpu({"model": conv.state_dict(), "optimizer": optimizer.state_dict()})
    step(conv, optimizer, 2)
    again, other = make()
    again.load_state_dict(saved["model"])
    other.load_state_dict(saved["optimizer"])
    assert other.state[again.weight]["momentum_buffer"].stride() != again.weight.stride()  # as read from a file
    match_memory_formats(other)
    step(again, other, 2)
    assert torch.equal(conv.weight, again.weight)
