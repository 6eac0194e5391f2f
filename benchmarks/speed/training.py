"""Set up the program's training loop for measurements, without its recorder and state."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from data.views2d import Views2d
from data.views3d import Views3d
from engine.memory_format import memory_format
from engine.precision import Precision
from engine.pretrain import MakeViews, PretrainStep, PretrainTask
from engine.recorder import Recorder
from engine.run_state import RunState
from engine.step_graph import GraphedSteps
from engine.trainer import Task, Trainer
from models.pcrlv2_model import PCRLv2
from models.pcrlv2_model_3d import PCRLv23d
from utils.records import RawCrops, RawImages, Views
from utils.world import World

N_LOCAL = 6
SIDE = 1024  # of an X-ray as it is published, pixels
EPOCH = 0


class Sizes(NamedTuple):
    """Shapes of one sample's views: channels, and spatial axes of a global and of a local view, pixels or voxels."""

    channels: int
    whole: tuple[int, ...]
    local: tuple[int, ...]


SIZES = {2: Sizes(3, (224, 224), (96, 96)), 3: Sizes(1, (64, 64, 32), (16, 16, 16))}
QUICK_SIZES = {2: Sizes(3, (64, 64), (32, 32)), 3: Sizes(1, (16, 16, 16), (8, 8, 8))}
# 10^9 operations of training on one sample at the published sizes and batches, counted by torch's FlopCounterMode over
# this program's three forward and backward passes. Layer by layer with all restorations they are 77 and 1270.
GFLOP = {2: 57.5, 3: 766.0}


def sizes_of(d: int, *, quick: bool) -> Sizes:
    """The published sizes, or tiny ones."""
    return (QUICK_SIZES if quick else SIZES)[d]


def build_network(d: int) -> PCRLv2 | PCRLv23d:
    """Build the network with random weights, in torch's default memory format."""
    torch.manual_seed(0)
    return PCRLv2(encoder_weights=None) if d == 2 else PCRLv23d()


def build_views(d: int, sizes: Sizes) -> Views2d | Views3d:
    """Build the recipe that makes a batch's views."""
    return Views2d(global_size=sizes.whole[0], local_size=sizes.local[0], n_local=N_LOCAL) if d == 2 else Views3d()


def raw_batch(d: int, sizes: Sizes, batch: int, device: torch.device) -> RawImages | RawCrops:
    """A batch of the loader, of random numbers, on a device."""
    if d == 2:
        pixels = torch.randint(256, (batch, 1, SIDE, SIDE), dtype=torch.uint8, device=device)
        return RawImages(pixels, torch.full((batch, 2), SIDE, device=device))
    shapes = (batch, 2, *sizes.whole), (batch, N_LOCAL, *sizes.local)
    return RawCrops(*(torch.rand(shape, device=device) for shape in shapes))


def random_views(sizes: Sizes, batch: int, device: torch.device) -> Views:
    """Draw views of normal random numbers, with targets in 0..1."""
    whole, local = (batch, sizes.channels, *sizes.whole), (batch, N_LOCAL, sizes.channels, *sizes.local)
    generator = torch.Generator(device).manual_seed(0)
    first, second = (torch.randn(whole, generator=generator, device=device) for _ in range(2))
    target = torch.rand(whole, generator=generator, device=device)
    return Views(first, second, target, torch.randn(local, generator=generator, device=device))


class NoBatches:
    """A loader without batches, since steps are called one by one."""

    steps_per_epoch, batch_size = 1, 1

    def __init__(self) -> None:
        self.bad: dict[str, str] = {}

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[Any]:
        yield from ()


def make_trainer(
    d: int, device: torch.device, folder: Path, views: MakeViews | Any, *, amp: bool, graph: bool = False,
    compile: bool = False,
) -> Trainer:  # fmt: skip
    """Build the trainer as main.py does; its steps are called one by one.

    Args:
        d: 2 or 3.
        device: the device of the network.
        folder: required by the trainer, but nothing is written there.
        views: makes the views of the batches passed to the steps.
        amp: mixed precision.
        graph: steps are a CUDA graph.
        compile: the network is compiled.
    """
    layout = memory_format(d, device)
    model = build_network(d)
    if compile:
        model.compile()
    model.to(memory_format=layout)
    precision = Precision.choose(device, amp=amp)
    module: nn.Module = PretrainStep(model, precision, layout).to(device)
    task = PretrainTask(module, views, n_stages=len(model.stages), epochs=1, peak_lr=1e-3, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4, fused=True)
    trainer = build_trainer(task, optimizer, precision, folder)
    if graph:
        trainer.graphed_steps = GraphedSteps(task, optimizer, device)
    return trainer


def build_trainer(task: Task, optimizer: torch.optim.Optimizer, precision: Precision, folder: Path) -> Trainer:
    """Build the trainer of a task, without records and state; nothing is written to ``folder``."""
    task.module.train()
    return Trainer(
        task, optimizer=optimizer, loader=NoBatches(), device=precision.device, precision=precision,
        recorder=Recorder(folder, about={}, active=False),
        run_state=RunState(folder, fixed={}, save_minutes=1e9, is_main=False), world=World(), epochs=1, seed=0,
    )  # fmt: skip
