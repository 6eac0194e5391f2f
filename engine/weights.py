"""Writes the weights of a run, the ``.pt`` files that users load."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.checkpoints import save_checkpoint, weights_due, weights_name


class WeightsWriter:
    """Writes weights after the epochs of :func:`utils.checkpoints.weights_due`.

    Args:
        output: the run's folder.
        opt: the run's options, plain values by name; stored under ``opt``.
        state_dict: returns the weights to store: the encoder in 2D, the whole model in 3D.
        optimizer: its state is stored as well, as in the published files.
    """

    def __init__(
        self, output: Path, opt: Mapping[str, Any], state_dict: Callable[[], Mapping[str, Tensor]],
        optimizer: torch.optim.Optimizer,
    ) -> None:  # fmt: skip
        self.output, self.opt = output, dict(opt)
        self.state_dict, self.optimizer = state_dict, optimizer

    def path(self, epoch: int) -> Path:
        """The file of the weights of an epoch."""
        opt = self.opt
        name = weights_name(model=opt["model"], dataset=opt["n"], phase=opt["phase"], ratio=opt["ratio"], epoch=epoch)
        return self.output / name

    def __call__(self, epoch: int, batch: Any) -> None:
        if weights_due(epoch, self.opt["epochs"]):
            content = {
                "opt": self.opt,
                "state_dict": self.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "epoch": epoch,
            }
            save_checkpoint(self.path(epoch), content)
