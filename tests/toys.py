"""A task that trains in milliseconds, for tests of the loop."""

from pathlib import Path

import torch
from torch import nn

from engine.precision import Precision
from engine.recorder import Recorder
from engine.run_state import RunState
from engine.trainer import Trainer
from utils.records import StepOutput
from utils.seeding import torch_generator
from utils.world import World

CPU = torch.device("cpu")


class ToyLoader:
    """Batches of 32 normally distributed rows, a function of (epoch, step); ``spoilt`` steps contain NaN."""

    steps_per_epoch, batch_size = 5, 32

    def __init__(self, spoilt=()):
        self.bad: dict[str, str] = {}
        self.spoilt = set(spoilt)

    def batches(self, epoch, first_step=0):
        for step in range(first_step, self.steps_per_epoch):
            x = torch.randn(32, 3, generator=torch_generator("toy", epoch, step))
            if (epoch, step) in self.spoilt or "all" in self.spoilt:
                x[1, 2] = torch.nan
            yield (x,)


class ToyTask:
    """Learns to sum its inputs, through BatchNorm and dropout, and a head that only even steps use."""

    def __init__(self, scale=1.0):
        torch.manual_seed(0)
        self.module = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))
        self.module.add_module("unused", nn.Identity())
        self.module.odd_head = nn.Linear(8, 1)
        self.scale, self.interrupt_at = scale, None

    def learning_rate(self, epoch, done):
        return 0.01

    def epoch_numbers(self, epoch):
        return {"beta": 0.5}

    def forward_only(self, raw):
        raise AssertionError("the toy runs in float32, which is not checked")

    def step(self, raw, epoch, step):
        if (epoch, step) == self.interrupt_at:
            raise KeyboardInterrupt
        (x,) = raw
        features = self.module[:4](x)
        head = self.module.odd_head if step % 2 else self.module[4]
        total = self.scale * ((head(features).squeeze(1) - x.sum(1)) ** 2).mean()
        return StepOutput(total, {"total": total.detach(), "half": total.detach() / 2})


def make_trainer(folder: Path, *, epochs=2, spoilt=(), scale=1.0, save_minutes=0.0, fixed=None, after_epoch=()):
    task = ToyTask(scale)
    optimizer = torch.optim.SGD(task.module.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-2, fused=True)
    run_state = RunState(folder / "state", fixed=fixed or {"lr": 0.05}, save_minutes=save_minutes)
    return Trainer(
        task, optimizer=optimizer, loader=ToyLoader(spoilt), device=CPU, precision=Precision.choose(CPU, amp=False),
        recorder=Recorder(folder, about={}), run_state=run_state, world=World(), epochs=epochs, seed=1, log_every=2,
        after_epoch=after_epoch,
    )  # fmt: skip
