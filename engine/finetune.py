"""Fine-tuning as a task of the loop: one loss a step, and after every epoch the loss on the validation split."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.precision import Precision, at_least_float32
from utils.checkpoints import RECORD, on_cpu, save_checkpoint
from utils.distributed import broadcast_, replica_devices, unwrapped
from utils.errors import UserError
from utils.records import StepOutput
from utils.seeding import torch_generator

# As published.
HALVED_EVERY = 50  # epochs


class ForwardStep(nn.Module):
    """Runs the network under autocast and returns float32 or wider; this module is replicated or distributed."""

    def __init__(self, model: nn.Module, precision: Precision, memory_format: torch.memory_format) -> None:
        super().__init__()
        self.model, self.precision, self.memory_format = model, precision, memory_format

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of the network for inputs B C *S."""
        with self.precision.autocast():
            return at_least_float32(self.model(x.contiguous(memory_format=self.memory_format)))


class FinetuneTask:
    """Fine-tuning as a task of the loop; keeps the weights with the lowest validation loss.

    Args:
        module: a :class:`ForwardStep`, which may be replicated or distributed.
        make_inputs: (raw batch, generator) to (inputs B C *S, labels), with random augmentation, on the batch's device.
        loss: (outputs, labels) to the 0-dim loss.
        validate: called after every epoch; returns the numbers to record. The lowest ``valid_loss`` is the best epoch,
            whose ``thresholds``, if there are any, are stored with ``record``.
        lr: learning rate of the first 50 epochs; it is halved every 50 epochs.
        seed, rank: with epoch and step, determine every random draw.
        best_file: file of the best weights; None in processes that must not write.
        record: plain values stored beside the weights: what else prediction needs to know of the network.
    """

    def __init__(
        self, module: nn.Module, *, make_inputs: Callable[[Any, torch.Generator], tuple[Tensor, Tensor]],
        loss: Callable[[Tensor, Tensor], Tensor], validate: Callable[[nn.Module], dict[str, Any]], lr: float,
        seed: int, rank: int = 0, best_file: Path | None = None, record: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.module, self.make_inputs, self.loss, self.validate = module, make_inputs, loss, validate
        self.lr, self.seed, self.rank, self.best_file = lr, seed, rank, best_file
        self.record = dict(record or {})
        self.best_epoch, self.best_loss, self.best_weights = -1, float("inf"), self._weights()
        self.best_thresholds: dict[str, float] = {}

    def _model(self) -> nn.Module:
        return unwrapped(self.module).get_submodule("model")

    def _weights(self) -> dict[str, Tensor]:
        return on_cpu(self._model().state_dict())

    def learning_rate(self, epoch: int, done: float) -> float:
        """The rate of an epoch, the same for all of its steps."""
        return self.lr * 0.5 ** (epoch // HALVED_EVERY)

    def inputs(self, raw: Any, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """(inputs, labels) of a step: a pure function of the batch and of (seed, epoch, step, rank)."""
        generator = torch_generator(self.seed, "views", epoch, step, self.rank, device=raw[0].device)
        with torch.no_grad():
            return self.make_inputs(raw, generator)

    def forward_only(self, raw: Any) -> None:
        """The forward pass of a step over one replica's share of a batch, for the check of half precision."""
        inputs, _ = self.inputs(raw, 0, 0)
        unwrapped(self.module)(inputs.chunk(len(replica_devices(self.module)) or 1)[0])

    def step(self, raw: Any, epoch: int, step: int) -> StepOutput:
        """The loss of one batch, on the device."""
        inputs, labels = self.inputs(raw, epoch, step)
        total = self.loss(self.module(inputs), labels)
        return StepOutput(total, {"total": total.detach()})

    def epoch_numbers(self, epoch: int) -> dict[str, Any]:
        """Validate, and keep the weights when they are the best so far."""
        # Running statistics differ between processes; all evaluate the main process's, which are saved.
        broadcast_(self._model().buffers())
        numbers = self.validate(self.module)
        if numbers["valid_loss"] < self.best_loss:
            self.best_epoch, self.best_loss, self.best_weights = epoch, numbers["valid_loss"], self._weights()
            self.best_thresholds = numbers.get("thresholds", {})
            self._save_best()
        return {**numbers, "best_epoch": self.best_epoch}

    def _save_best(self) -> None:
        if self.best_file is None:
            return
        record = {RECORD: self.record | {"thresholds": self.best_thresholds}} if self.record else {}
        content = {"state_dict": self.best_weights, "epoch": self.best_epoch, "valid_loss": self.best_loss, **record}
        save_checkpoint(self.best_file, content)

    def state_dict(self) -> dict[str, Any]:
        """The best epoch so far, so that a resumed run selects the same one."""
        return {
            "best_epoch": self.best_epoch, "best_loss": self.best_loss, "best_weights": self.best_weights,
            "best_thresholds": self.best_thresholds,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best_epoch, self.best_loss = state["best_epoch"], state["best_loss"]
        self.best_weights, self.best_thresholds = state["best_weights"], state.get("best_thresholds", {})

    def use_best(self) -> None:
        """Load the best weights into the network; write their file in a folder in which another run was resumed.

        Raises:
            UserError: no epoch had a finite validation loss.
        """
        if self.best_epoch < 0:
            raise UserError("expected an epoch with a finite validation loss, there was none; try a smaller --lr")
        self._model().load_state_dict(self.best_weights)
        if self.best_file is not None and not self.best_file.exists():
            self._save_best()
