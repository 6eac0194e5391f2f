"""The one training loop: 2D and 3D, pre-training and fine-tuning, one device or many machines."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from engine.guard import LARGEST_LOSS, LONGEST_STREAK, StepGuard
from engine.meters import Meter, mean_over_processes
from engine.precision import Precision
from engine.prefetch import prefetch
from engine.precision_check import check_half_precision, describe_repair
from engine.recorder import Recorder
from engine.run_state import Position, RunState
from engine.stopping import Stopped, StopSignals
from utils.checkpoints import LARGEST_VARIANCE, REMEDY, find_absurd
from utils.distributed import all_reduce_max_, barrier, gather, replica_devices, unwrapped
from utils.errors import UserError
from utils.records import StepOutput
from utils.seeding import seed_of
from utils.world import World


class Task(Protocol):
    """What is trained. The loop asks for a loss and a learning rate, and knows no dimension and no data set."""

    module: nn.Module

    def learning_rate(self, epoch: int) -> float: ...
    def epoch_numbers(self, epoch: int) -> dict[str, float]: ...
    def step(self, raw: Any, epoch: int, step: int) -> StepOutput: ...
    def forward_only(self, raw: Any) -> None: ...


@runtime_checkable
class Stateful(Protocol):
    """A task with a state of its own beside its module, such as its best epoch so far."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Batches(Protocol):
    """Where batches come from: ``data.loader.Loader``."""

    steps_per_epoch: int
    batch_size: int
    bad: dict[str, str]

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[Any]: ...


# The spread of the projections is about 1, and 0 when all inputs give the same one.
COLLAPSED = 0.1

AfterEpoch = Callable[[int, Any], None]
"""Called by every process with the epoch and its last batch, on the device."""


def init_optimizer_state(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Give every parameter a gradient of 0 and, under SGD, a momentum of 0, from which a first step is the usual one.

    Momentum and weight decay then reach every head in every step, whether drawn before or not, so that a resumed
    process, which has drawn none yet, does the same as an unbroken one; and a first step that is skipped leaves no
    uninitialised buffer behind.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
            if group.get("momentum"):
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def match_memory_formats(optimizer: torch.optim.Optimizer) -> None:
    """Bring the state into its parameters' memory layout, of which files know nothing.

    Fused optimizers walk through memory: beside a channels-last parameter a contiguous state is taken for another
    parameter's elements, without any error.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


class Trainer:
    """Runs epochs 0..epochs inclusive, saves the state as it goes, and goes on from it.

    Args:
        task: what is trained.
        optimizer: a fused optimizer over the task's parameters.
        loader: the batches of an epoch, from any step on.
        device: where the task's module is.
        precision: autocast and loss scaler.
        recorder, run_state: the run's records and its state.
        world: this process's place.
        epochs: the last epoch.
        seed: what randomness is a function of, beside epoch, step and rank.
        log_every: steps between readings of the losses; in between nothing waits for the device.
        after_epoch: what is done at the end of each epoch, before the state is saved.
    """

    def __init__(
        self, task: Task, *, optimizer: torch.optim.Optimizer, loader: Batches, device: torch.device,
        precision: Precision, recorder: Recorder, run_state: RunState, world: World, epochs: int, seed: int,
        log_every: int = 20, after_epoch: Sequence[AfterEpoch] = (),
    ) -> None:  # fmt: skip
        self.task, self.optimizer, self.loader, self.precision = task, init_optimizer_state(optimizer), loader, precision
        self.recorder, self.run_state, self.world = recorder, run_state, world
        self.epochs, self.seed, self.log_every, self.after_epoch = epochs, seed, log_every, after_epoch
        self.device, self.precision_checked = device, precision.dtype == torch.float32
        self.guard = StepGuard(unwrapped(task.module), optimizer, device)
        self.epoch_meter, self.window_meter = (Meter(device, maxima=["gradient_norm"]) for _ in range(2))
        self.signals = StopSignals()
        self.bad_samples: dict[str, str] = {}

    def state_dict(self) -> dict[str, Any]:
        """Everything an exact resume needs, beside the position."""
        return {
            "model": unwrapped(self.task.module).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.precision.scaler.state_dict(),
            "epoch_meter": self.epoch_meter.state_dict(),
            "guard": self.guard.state_dict(),
            "bad_samples": self.bad_samples,
            "task": self.task.state_dict() if isinstance(self.task, Stateful) else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> Position:
        """Go back to a saved state; returns the next step to take."""
        unwrapped(self.task.module).load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        match_memory_formats(self.optimizer)
        self.precision.scaler.load_state_dict(state["scaler"])
        self.epoch_meter.load_state_dict(state["epoch_meter"])
        self.guard.load_state_dict(state["guard"])
        self.bad_samples = dict(state["bad_samples"])
        if isinstance(self.task, Stateful):
            self.task.load_state_dict(state["task"])
        return Position(*state["position"])

    def fit(self, state: dict[str, Any] | None = None) -> None:
        """Train from ``state``, or from the start, to the end.

        Raises:
            Stopped: a scheduler asked for it; the state is saved.
            UserError: too many steps were bad, or the weights are absurd; the state of before is saved.
        """
        try:
            self._fit(state)
        except UserError as error:
            # Where this cannot be written either, the first error is the one to tell.
            with contextlib.suppress(UserError):
                self.recorder.update_run(status=f"failed: {error}")
            raise

    def _fit(self, state: dict[str, Any] | None) -> None:
        position = self.load_state_dict(state) if state else Position()
        with self.recorder:
            self.recorder.start(epoch=position.epoch, step=position.epoch * self.loader.steps_per_epoch + position.step)
            for epoch in range(position.epoch, self.epochs + 1):
                self.run_epoch(epoch, position.step if epoch == position.epoch else 0)
            self.recorder.update_run(status="finished")

    def run_epoch(self, epoch: int, first_step: int) -> None:
        """The steps of an epoch from ``first_step`` on, then its records, its pictures and the state."""
        rate = self.task.learning_rate(epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.task.module.train()
        steps = self.loader.steps_per_epoch
        progress = self.recorder.progress
        progress.start_epoch(epoch, self.epochs, steps, first_step, self.loader.batch_size)
        started, waited, batch = time.perf_counter(), 0.0, None
        for step, (batch, waiting) in enumerate(
            prefetch(self.loader.batches(epoch, first_step), self.device), first_step
        ):
            self.check_half_precision(batch)
            self.train_step(batch, epoch, step)
            waited += waiting
            if (step + 1) % self.log_every == 0:
                self.log(Position(epoch, step + 1), rate)
            elif progress.wants_losses:
                progress.show({**self.window_meter.read(), "learning_rate": rate})
            progress.advance()
            if step + 1 < steps:
                self.save_if_due(Position(epoch, step + 1), reading=(step + 1) % self.log_every == 0)
        seconds = time.perf_counter() - started
        self.end_epoch(epoch, batch, {
            "learning_rate": rate,
            "samples_per_second": (steps - first_step) * self.loader.batch_size / seconds,
            "data_wait_share": waited / seconds,
        })  # fmt: skip

    def check_half_precision(self, batch: Any) -> None:
        """Before the first step under autocast, take out of it what this machine computes wrongly."""
        if self.precision_checked:
            return
        self.precision_checked = True
        model = unwrapped(self.task.module).get_submodule("model")
        devices = replica_devices(self.task.module) or [self.device]
        repaired = check_half_precision(model, lambda: self.task.forward_only(batch), devices, self.precision.dtype)
        if repaired:
            self.warn(describe_repair(repaired, self.device, self.precision.dtype))

    def train_step(self, batch: Any, epoch: int, step: int) -> None:
        """One forward and backward pass and one update; nothing here waits for the device, but for fp16's scaler."""
        torch.manual_seed(seed_of(self.seed, "step", epoch, step, self.world.rank))
        # Set to 0, not dropped: see init_optimizer_state.
        self.optimizer.zero_grad(set_to_none=False)
        output = self.task.step(batch, epoch, step)
        scaler = self.precision.scaler
        scaler.scale(output.total).backward()
        scale = scaler.scale(torch.ones((), device=self.device)) if scaler.is_enabled() else None
        bad, gradient_norm = self.guard.check(output.total, epoch, scale)
        if scaler.is_enabled():
            self.step_scaled(bad)
        else:
            self.optimizer.step()
        numbers = mean_over_processes({**output.numbers, "gradient_norm": gradient_norm})
        self.epoch_meter.add(numbers, bad)
        self.window_meter.add(numbers, bad)

    def step_scaled(self, bad: Tensor) -> None:
        """The update under fp16, where the scaler itself looks for gradients that are not finite."""
        del self.optimizer.found_inf  # type: ignore[attr-defined]
        if not bad.item():
            self.precision.scaler.step(self.optimizer)
            self.precision.scaler.update()

    def log(self, position: Position, rate: float) -> None:
        """Read the losses since the last reading back from the device, and stop a run that has diverged."""
        numbers = {name: value for name, value in self.window_meter.read().items() if value is not None}
        self.window_meter.reset()
        global_step = position.epoch * self.loader.steps_per_epoch + position.step
        numbers["learning_rate"] = rate
        self.recorder.progress.show(numbers)
        self.recorder.scalars("step", numbers, global_step)
        self.check_guard(position)

    def check_guard(self, position: Position) -> int:
        """The steps skipped so far; ends the run when too many were skipped in a row."""
        skipped, diverged = self.guard.read()
        if diverged:
            self.guard.reset_streak()
            self.save(position)
            self.recorder.update_run(skipped_steps=skipped)
            raise UserError(
                f"expected a finite loss of at most {LARGEST_LOSS:g} and gradients of the usual norm, got none in "
                f"{LONGEST_STREAK} steps in a row; the state of before is in {self.run_state.folder}; {REMEDY}"
            )
        return skipped

    def check_values(self) -> None:
        """End the run where weights, running statistics or the optimizer's state have values that none have."""
        optimizer = {
            f"the optimizer's {name} of parameter {index}": value
            for index, state in enumerate(self.optimizer.state.values())
            for name, value in state.items()
            if isinstance(value, Tensor)
        }
        weights = unwrapped(self.task.module).state_dict()
        # Of gradients, there may be squares.
        if absurd := find_absurd(weights) or find_absurd(optimizer, largest=LARGEST_VARIANCE):
            raise UserError(
                f"training went wrong: {absurd}; nothing of it is written, and a state of before, if there is one, is "
                f"still in {self.run_state.folder}; {REMEDY}"
            )

    def save(self, position: Position) -> None:
        """Write the state, unless it is absurd."""
        self.check_values()
        self.run_state.save(position, self.state_dict())

    def save_if_due(self, position: Position, *, reading: bool) -> None:
        """Save in between, when it is time or when a scheduler asks for the machine."""
        stopping = self.asked_to_stop(reading=reading)
        if stopping or self.run_state.due():
            self.check_guard(position)
            self.save(position)
        if stopping:
            self.stop(position)

    def asked_to_stop(self, *, reading: bool) -> bool:
        """Whether any process was asked to stop.

        Several processes must leave at the same step, or the rest would wait for ever; they agree on it when the losses
        are read, since asking in every step would make every step wait.
        """
        asked = self.signals.received is not None
        if self.world.size == 1:
            return asked
        return reading and bool(all_reduce_max_(torch.tensor(float(asked), device=self.device)).item())

    def stop(self, position: Position) -> None:
        """Leave in good order."""
        reason = self.signals.received or "another process's signal"
        self.recorder.update_run(status=f"stopped by {reason}")
        raise Stopped(f"stopped by {reason} before epoch {position.epoch} step {position.step}")

    def end_epoch(self, epoch: int, batch: Any, numbers: dict[str, float]) -> None:
        """Records, pictures, weights and state of an epoch that is done."""
        self.check_values()
        means, (good, skipped) = self.epoch_meter.read(), self.epoch_meter.read_steps()
        found = self.task.epoch_numbers(epoch) if good else {}
        self.collect_bad_samples()
        counts = {"skipped_steps": self.guard.read()[0], "bad_samples": len(self.bad_samples)}
        self.recorder.end_epoch({**means, **found, **numbers, **counts}, epoch)
        position = Position(epoch + 1, 0)
        self.check_guard(position)
        self.check_epoch(epoch, good, skipped, means.get("projection_spread"))
        for action in self.after_epoch:
            action(epoch, batch)
        self.epoch_meter.reset()
        self.window_meter.reset()
        self.recorder.update_run(epochs_done=epoch + 1, bad_samples=self.bad_samples)
        self.save(position)
        if epoch < self.epochs and self.asked_to_stop(reading=True):
            self.stop(position)
        barrier()

    def check_epoch(self, epoch: int, good: int, skipped: int, spread: float | None) -> None:
        """Report what went wrong in an epoch, and end the run when all of it did."""
        if not good:
            raise UserError(
                f"expected an epoch with good steps, but in all {skipped} of epoch {epoch} the loss or the gradients "
                f"were not finite or exploded; no state of it is written; {REMEDY}"
            )
        if skipped:
            self.warn(
                f"epoch {epoch}: {skipped} of {good + skipped} steps were left out: their loss or gradients were not "
                "finite or exploded"
            )
        if spread is not None and spread < COLLAPSED:
            self.warn(
                f"epoch {epoch}: the projections have collapsed: their spread is {spread:.2g} and should be near 1; "
                "such weights are of little use"
            )

    def warn(self, line: str) -> None:
        """Tell the user, once for all processes."""
        if self.world.is_main:
            print(line, file=sys.stderr, flush=True)

    def collect_bad_samples(self) -> None:
        """Bring together what every process found broken."""
        for found in gather(self.loader.bad):
            self.bad_samples.update(found)
