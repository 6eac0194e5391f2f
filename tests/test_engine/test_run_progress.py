"""Progress of a run: bars and lines."""

import re
import sys

import pytest

from engine import run_progress
from engine.run_progress import RunProgress
from engine.stopping import StopSignals
from tests.test_utils.test_progress import Terminal
from tests.toys import make_trainer


@pytest.fixture
def clock(monkeypatch):
    """A clock that shows ``clock.seconds``."""

    class Clock:
        seconds = 500.0

        def monotonic(self):
            return self.seconds

    clock = Clock()
    monkeypatch.setattr(run_progress, "time", clock)
    return clock


def run(clock, progress, *, first=0, steps=10, epochs=2, seconds=7.0, between=0.0):
    for epoch in range(epochs + 1):
        progress.start_epoch(epoch, epochs, steps, first, batch_size=4)
        for step in range(first, steps):
            # The first step of a process takes longer.
            clock.seconds += seconds + 100 * (epoch == 0 and step == first)
            if progress.wants_losses or step % 3 == 2:
                progress.show({"total": epoch + step / 100, "none": None})
            progress.advance()
        progress.end_epoch()
        clock.seconds += between
        first = 0


def test_a_log_file_has_a_line_at_the_first_step_and_every_minute_over_epochs(clock, capsys):
    run(clock, RunProgress(active=True))
    assert capsys.readouterr().err.splitlines() == [
        "epoch 0/2  step 1/10: total 0  none none  samples/s 0.03738  left 51:43",
        "epoch 0/2  step 10/10: total 0.08  none none  samples/s 0.5714  left 02:20",
        "epoch 1/2  step 9/10: total 1.08  none none  samples/s 0.5714  left 01:17",
        "epoch 2/2  step 8/10: total 2.05  none none  samples/s 0.5714  left 00:14",
    ]


def test_what_is_left_counts_the_time_between_epochs_and_the_speed_does_not(clock, capsys):
    run(clock, RunProgress(active=True), between=140.0)
    lines = capsys.readouterr().err.splitlines()
    assert all("samples/s 0.5714" in line for line in lines[1:])
    # 1 step of epoch 2 done: 20 steps of 7 s and two pauses so far, 9 steps to go.
    assert "epoch 2/2  step 1/10" in lines[4] and lines[4].endswith(" left 03:09")


def test_a_resumed_run_counts_from_its_first_step(clock, capsys):
    run(clock, RunProgress(active=True), first=8, seconds=1.0, epochs=0)
    assert capsys.readouterr().err.splitlines() == [
        "epoch 0/0  step 9/10: total 0.08  none none  samples/s 0.0396  left 01:41"
    ]


def test_processes_but_the_main_one_are_silent_and_a_terminal_has_bars(clock, capsys, monkeypatch):
    run(clock, RunProgress(active=False))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress = RunProgress(active=True)
    assert not progress.wants_losses, "bars need none at the first step"
    run(clock, progress)
    assert "\r" in sys.stderr.getvalue() and "total=2.08" in sys.stderr.getvalue()
    assert "step 1/10" not in sys.stderr.getvalue()


def test_the_loop_prints_its_first_step_with_losses_without_further_readings(tmp_path, capsys, monkeypatch):
    trainer = make_trainer(tmp_path, epochs=1)
    trainer.log_every, reads = 4, []
    read = trainer.window_meter.read
    monkeypatch.setattr(trainer.window_meter, "read", lambda: reads.append(1) or read())
    trainer.fit()
    lines = [line for line in capsys.readouterr().err.splitlines() if " step " in line]
    number = r"[0-9.e+-]+"
    expected = (
        rf"epoch 0/1  step 1/5: total {number}  half {number}  .*learning_rate {number}  samples/s {number}  left"
    )
    assert len(lines) == 1 and re.match(expected, lines[0]), lines
    assert len(reads) == 3, "at the first step and, in both epochs, at the fourth"


def test_signals_of_other_systems_are_left_alone(monkeypatch):
    import signal

    monkeypatch.delattr(signal, "SIGUSR1")
    assert StopSignals().received is None


def test_losses_of_one_epoch_are_not_shown_as_those_of_the_next(clock, capsys):
    progress = RunProgress(active=True)
    for epoch in range(3):
        progress.start_epoch(epoch, 2, 1, 0, batch_size=4)
        clock.seconds += 70
        if progress.wants_losses:
            progress.show({"total": 1.5})
        progress.advance()
    first, *others = capsys.readouterr().err.splitlines()
    assert "total 1.5" in first and len(others) == 2 and not any("total" in line for line in others)
