"""The one training loop: 2D and 3D, pre-training and fine-tuning, one device or many machines."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from engine.guard import LARGEST_LOSS, LONGEST_STREAK, StepGuard
from engine.meters import Meter, StepNumbers, step_numbers
from engine.precision import Precision
from engine.precision_check import check_half_precision, describe_float32_layers
from engine.prefetch import prefetch
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
    """What is trained. The loop gets losses and learning rates from it, and depends on no dimension and no data set.

    ``epoch_numbers`` may synchronise with the host; ``step`` must not, and returns tensors on the device.
    """

    module: nn.Module

    def learning_rate(self, epoch: int, done: float) -> float: ...
    def epoch_numbers(self, epoch: int) -> dict[str, float]: ...
    def step(self, raw: Any, epoch: int, step: int) -> StepOutput: ...
    def forward_only(self, raw: Any) -> None: ...


@runtime_checkable
class Stateful(Protocol):
    """A task with state besides its module's, such as its best epoch so far."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Batches(Protocol):
    """The source of batches: ``data.loader.Loader``. ``batch_size`` counts samples over all processes."""

    steps_per_epoch: int
    batch_size: int
    bad: dict[str, str]

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[Any]: ...


# The spread of the projections is about 1, and 0 when all inputs have the same projection.
COLLAPSED = 0.1

GraphedSteps = Callable[[Any, int, int, Callable[[Callable[[], StepOutput], int], StepNumbers]], StepNumbers]
"""Called in place of ``run_step`` with batch, epoch, step and ``run_step``: ``engine.step_graph.GraphedSteps``."""

AfterEpoch = Callable[[int, Any], None]
"""Called after each epoch with the epoch and its last batch of raw samples, on the device."""


def init_optimizer_state(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Set the gradient of every parameter and, under SGD, its momentum to 0, which does not change the first update.

    Momentum and weight decay then apply to every head in every step, even to heads that no step has drawn so far. So a
    resumed process, which has drawn none yet, updates them as an uninterrupted one does, and a first step that is
    skipped leaves no uninitialised buffer.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
            if group.get("momentum"):
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def match_memory_formats(optimizer: torch.optim.Optimizer) -> None:
    """Convert the optimizer's state to the memory formats of its parameters, which a saved state does not keep.

    Fused optimizers pair the elements of parameter and state by their order in memory: a contiguous state of a
    channels-last parameter would be applied to the wrong elements, without any error.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


class Trainer:
    """Trains for epochs 0..epochs inclusive, saves the state of the run, and resumes from it.

    Batches, losses, gradients, the guard's counts and the meters' sums are on the device. A step does not synchronise
    with the host (under fp16 the scaler does); the numbers are read every ``log_every`` steps, before a state is saved
    and at the end of an epoch.

    Args:
        task: what is trained.
        optimizer: a fused optimizer over the task's parameters.
        loader: the batches of an epoch, starting at any step.
        device: the device of the task's module; several GPUs: the first.
        precision: autocast and loss scaler.
        recorder: writes metrics, pictures and ``run.json``.
        run_state: saves the state of the run.
        world: rank of this process and number of processes.
        epochs: the last epoch.
        seed: with epoch, step and rank, determines every random draw.
        log_every: steps between two readings of the losses.
        after_epoch: called at the end of each epoch, before the state may be saved.
        graphed_steps: trains steps by a graph.
    """

    def __init__(
        self, task: Task, *, optimizer: torch.optim.Optimizer, loader: Batches, device: torch.device,
        precision: Precision, recorder: Recorder, run_state: RunState, world: World, epochs: int, seed: int,
        log_every: int = 20, after_epoch: Sequence[AfterEpoch] = (), graphed_steps: GraphedSteps | None = None,
    ) -> None:  # fmt: skip
        self.task, self.loader, self.precision = task, loader, precision
        self.optimizer = init_optimizer_state(optimizer)
        self.recorder, self.run_state, self.world = recorder, run_state, world
        self.epochs, self.seed, self.log_every, self.after_epoch = epochs, seed, log_every, after_epoch
        self.device, self.precision_checked = device, precision.dtype == torch.float32
        self.guard = StepGuard(unwrapped(task.module), optimizer, device)
        self.epoch_meter, self.window_meter = (Meter(device, maxima=["gradient_norm"]) for _ in range(2))
        self.graphed_steps = graphed_steps
        self.signals = StopSignals()
        self.bad_samples: dict[str, str] = {}

    def state_dict(self) -> dict[str, Any]:
        """Everything that an exact resume needs, except the position."""
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
        """Restore a saved state; returns the position of the next step."""
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
        """Train to the last epoch, from ``state`` or from the beginning.

        Raises:
            Stopped: the process got a stop signal, be it in the last epoch; the state is saved.
            UserError: too many steps were bad, or the weights have absurd values; the last good state is on disk.
        """
        try:
            self._fit(state)
            if self.asked_to_stop(reading=True):
                raise Stopped(f"stopped by {self.stop_reason} after the last epoch")
        except UserError as error:
            # If this cannot be written either, the first error is the one to report.
            with contextlib.suppress(UserError):
                self.recorder.update_run(status=f"failed: {error}")
            raise
        finally:
            self.signals.restore()

    def _fit(self, state: dict[str, Any] | None) -> None:
        position = self.load_state_dict(state) if state else Position()
        with self.recorder:
            self.recorder.start(epoch=position.epoch, step=position.epoch * self.loader.steps_per_epoch + position.step)
            for epoch in range(position.epoch, self.epochs + 1):
                self.run_epoch(epoch, position.step if epoch == position.epoch else 0)
            self.recorder.update_run(status="finished")

    def run_epoch(self, epoch: int, first_step: int) -> None:
        """Train for one epoch, starting at ``first_step``; then write its records, its pictures and the state."""
        self.task.module.train()
        steps = self.loader.steps_per_epoch
        progress = self.recorder.progress
        progress.start_epoch(epoch, self.epochs, steps, first_step, self.loader.batch_size)
        started, waited, batch = time.perf_counter(), 0.0, None
        for step, (batch, waiting) in enumerate(
            prefetch(self.loader.batches(epoch, first_step), self.device), first_step
        ):
            self.check_half_precision(batch)
            rate = self.set_rate(epoch, (step + 1) / steps)
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
            "learning_rate": self.set_rate(epoch, 1.0),
            "samples_per_second": (steps - first_step) * self.loader.batch_size / seconds,
            "data_wait_share": waited / seconds,
        })  # fmt: skip

    def set_rate(self, epoch: int, done: float) -> float:
        """Give the optimizer the learning rate of a step, after which ``done`` of the epoch is over; returns it."""
        rate = self.task.learning_rate(epoch, done)
        for group in self.optimizer.param_groups:
            if self.graphed_steps and isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        return rate

    def check_half_precision(self, batch: Any) -> None:
        """Once, before the first step with autocast: layers with wrong half-precision gradients are set to float32."""
        if self.precision_checked:
            return
        self.precision_checked = True
        model = unwrapped(self.task.module).get_submodule("model")
        devices = replica_devices(self.task.module) or [self.device]
        in_float32 = check_half_precision(model, lambda: self.task.forward_only(batch), devices, self.precision.dtype)
        if in_float32:
            self.warn(describe_float32_layers(in_float32, self.device, self.precision.dtype))

    def train_step(self, batch: Any, epoch: int, step: int) -> None:
        """One forward and backward pass and one update.

        Loss, gradients, the guard's check and the meters stay on the device; only fp16's scaler synchronises with the
        host.
        """
        torch.manual_seed(seed_of(self.seed, "step", epoch, step, self.world.rank))
        if self.graphed_steps:
            numbers = self.graphed_steps(batch, epoch, step, self.run_step)
        else:
            numbers = self.run_step(lambda: self.task.step(batch, epoch, step), epoch)
        self.epoch_meter.add(numbers)
        self.window_meter.add(numbers)

    def run_step(self, make_output: Callable[[], StepOutput], epoch: int) -> StepNumbers:
        """The part of a step that is on the device: loss, gradients, check and update; returns its numbers."""
        # Set to 0 and not to None: see init_optimizer_state.
        self.optimizer.zero_grad(set_to_none=False)
        output = make_output()
        scaler = self.precision.scaler
        scaler.scale(output.total).backward()
        scale = scaler.scale(torch.ones((), device=self.device)) if scaler.is_enabled() else None
        bad, gradient_norm = self.guard.check(output.total, epoch, scale)
        if scaler.is_enabled():
            self.step_scaled(bad)
        else:
            self.optimizer.step()
        return step_numbers({**output.numbers, "gradient_norm": gradient_norm}, bad)

    def step_scaled(self, bad: Tensor) -> None:
        """The update under fp16, where the scaler finds gradients that are not finite. Synchronises with the host."""
        del self.optimizer.found_inf  # type: ignore[attr-defined]
        if not bad.item():
            self.precision.scaler.step(self.optimizer)
            self.precision.scaler.update()

    def log(self, position: Position, rate: float) -> None:
        """Read and record the mean losses since the last reading; ends a run that has diverged. Synchronises."""
        numbers = {name: value for name, value in self.window_meter.read().items() if value is not None}
        self.window_meter.reset()
        global_step = position.epoch * self.loader.steps_per_epoch + position.step
        numbers["learning_rate"] = rate
        self.recorder.progress.show(numbers)
        self.recorder.scalars("step", numbers, global_step)
        self.check_guard(position)

    def check_guard(self, position: Position) -> int:
        """Number of steps skipped so far; ends the run when too many were skipped in a row. Synchronises."""
        skipped, diverged = self.guard.read()
        if diverged:
            self.guard.reset_streak()
            self.save(position)
            self.recorder.update_run(skipped_steps=skipped)
            raise UserError(
                f"expected a finite loss of at most {LARGEST_LOSS:g} and gradients of the usual norm, got none in "
                f"{LONGEST_STREAK} steps in a row; the last good state is in {self.run_state.folder}; {REMEDY}"
            )
        return skipped

    def check_values(self) -> None:
        """End the run if weights, running statistics or the optimizer's state have absurd or non-finite values."""
        optimizer = {
            f"the optimizer's {name} of parameter {index}": value
            for index, state in enumerate(self.optimizer.state.values())
            for name, value in state.items()
            if isinstance(value, Tensor)
        }
        weights = unwrapped(self.task.module).state_dict()
        # The state of an optimizer may hold squares of gradients.
        if absurd := find_absurd(weights) or find_absurd(optimizer, largest=LARGEST_VARIANCE):
            raise UserError(
                f"training went wrong: {absurd}; this state is not written; the last good state, if there is one, is "
                f"still in {self.run_state.folder}; {REMEDY}"
            )

    def save(self, position: Position) -> None:
        """Save the state, after checking its values."""
        self.check_values()
        self.run_state.save(position, self.state_dict())

    def save_if_due(self, position: Position, *, reading: bool) -> None:
        """Save within an epoch, when ``--save_minutes`` have passed or after a stop signal.

        Args:
            position: the next step.
            reading: whether the losses were read after this step.
        """
        stopping = self.asked_to_stop(reading=reading)
        if stopping or self.run_state.due():
            self.check_guard(position)
            self.save(position)
        if stopping:
            self.stop(position)

    def asked_to_stop(self, *, reading: bool) -> bool:
        """Whether any process got a stop signal.

        All processes must stop at the same step, or the others would wait for ever. They exchange this when the losses
        are read, since an exchange in every step would make every step wait.
        """
        asked = self.signals.received is not None
        if self.world.size == 1:
            return asked
        return reading and bool(all_reduce_max_(torch.tensor(float(asked), device=self.device)).item())

    def stop(self, position: Position) -> None:
        """Record the reason in ``run.json`` and end the run."""
        self.recorder.update_run(status=f"stopped by {self.stop_reason}")
        raise Stopped(f"stopped by {self.stop_reason} before epoch {position.epoch} step {position.step}")

    @property
    def stop_reason(self) -> str:
        """What the run was asked to stop by."""
        return self.signals.received or "another process's signal"

    def end_epoch(self, epoch: int, batch: Any, numbers: dict[str, float]) -> None:
        """Write records, pictures and weights of a finished epoch; and the state, where that is cheap."""
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
        stopping = epoch < self.epochs and self.asked_to_stop(reading=True)
        # Else writing their states would be a large part of short epochs.
        if stopping or epoch == self.epochs or self.run_state.cheap():
            self.save(position)
        if stopping:
            self.stop(position)
        barrier()

    def check_epoch(self, epoch: int, good: int, skipped: int, spread: float | None) -> None:
        """Report skipped steps and collapsed projections; ends the run if all steps of the epoch were bad."""
        if not good:
            raise UserError(
                f"expected an epoch with good steps, but in all {skipped} of epoch {epoch} the loss or the gradients "
                f"were not finite or exploded; no state of this epoch is written; {REMEDY}"
            )
        if skipped:
            self.warn(
                f"epoch {epoch}: {skipped} of {good + skipped} steps were skipped: their loss or gradients were not "
                "finite or exploded"
            )
        if spread is not None and spread < COLLAPSED:
            self.warn(
                f"epoch {epoch}: the projections have collapsed: their spread is {spread:.2g} and should be near 1; "
                "such weights are of little use"
            )

    def warn(self, line: str) -> None:
        """Print a line on stderr, in the main process only."""
        if self.world.is_main:
            print(line, file=sys.stderr, flush=True)

    def collect_bad_samples(self) -> None:
        """Collect the broken samples that all processes found."""
        for found in gather(self.loader.bad):
            self.bad_samples.update(found)
