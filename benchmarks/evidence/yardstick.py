"""Yardsticks: methods of the library lightly on the same encoder, views and optimizer.

Barlow Twins (arXiv 2103.03230) and SimSiam (arXiv 2011.10566), with the library's heads and losses.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.evidence.settings import YARDSTICKS
from data.catalog.list_folders import ListFolders
from data.loader import Loader
from engine.memory_format import memory_format
from engine.optimizers import build_optimizer
from engine.precision import Precision, at_least_float32
from engine.pretrain import PretrainTask
from engine.recorder import Recorder
from engine.run_state import RunState
from engine.trainer import Trainer
from engine.weights import WeightsWriter
from evaluation.features import PooledFeatures
from main import describe_run, make_views, open_samples
from models.encoders import FEATURES, PRETRAINED_CHANNELS, build_encoder
from utils.devices import choose_devices
from utils.errors import UserError
from utils.options import Options, fixed_options
from utils.records import StepOutput, Views
from utils.seeding import seed_of
from utils.world import World

# Width of projections: SimSiam's own; Barlow Twins' default of 8,192 is for batches of 2,048.
PROJECTION = 2048


def require_lightly() -> Any:
    """The library's losses and heads.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module("lightly.loss"), importlib.import_module("lightly.models.modules.heads")
    except ImportError:
        raise UserError(
            f"--arms {' and '.join(YARDSTICKS)} need the package lightly, which is not installed: pip install lightly"
        ) from None


class BarlowTwins(nn.Module):
    """Projections of two views should be correlated entry by entry."""

    def __init__(self) -> None:
        super().__init__()
        losses, heads = require_lightly()
        self.project = heads.BarlowTwinsProjectionHead(FEATURES, PROJECTION, PROJECTION)
        self.loss = losses.BarlowTwinsLoss()

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        return (self.project(features),)

    def compare(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
        # A mean over the projections instead of the library's sum: the loop takes a loss above 1000 for a failure.
        return self.loss(first[0], second[0]) / PROJECTION


class SimSiam(nn.Module):
    """The prediction from one view should be similar to the projection of the other, which gets no gradient."""

    def __init__(self) -> None:
        super().__init__()
        losses, heads = require_lightly()
        self.project = heads.SimSiamProjectionHead(FEATURES, PROJECTION, PROJECTION)
        self.predict = heads.SimSiamPredictionHead(PROJECTION, PROJECTION // 4, PROJECTION)
        self.loss = losses.NegativeCosineSimilarity()

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        projection = self.project(features)
        return projection.detach(), self.predict(projection)

    def compare(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
        return (self.loss(first[1], second[0]) + self.loss(second[1], first[0])) / 2


METHODS: dict[str, type[BarlowTwins | SimSiam]] = dict(zip(YARDSTICKS, (BarlowTwins, SimSiam), strict=True))


class YardstickStep(nn.Module):
    """Embeds both global views and compares them.

    Args:
        model: encoder with average pooling, B C *S to B F.
        method: B F to embeddings, and a loss of those of two views.
    """

    def __init__(self, model: PooledFeatures, method: BarlowTwins | SimSiam, precision: Precision) -> None:
        super().__init__()
        self.model, self.method, self.precision = model, method, precision

    def forward(self, views: Views) -> Tensor:
        with self.precision.autocast():
            embedded = [self.method(self.model(view)) for view in (views.global1, views.global2)]
        return self.method.compare(*([at_least_float32(part) for part in parts] for parts in embedded))


class YardstickTask(PretrainTask):
    """The same views and learning rates as those of pre-training, with another loss."""

    def forward_only(self, raw: tuple[Tensor, ...]) -> None:
        self.module(self.views(raw, 0, 0))

    def step(self, raw: tuple[Tensor, ...], epoch: int, step: int) -> StepOutput:
        loss = self.module(self.views(raw, epoch, step))
        return StepOutput(loss, {"total": loss.detach()})


def build_yardstick(name: str, options: Options, device: torch.device, precision: Precision) -> YardstickStep:
    """The encoder of pre-training with the library's heads and loss, on the device."""
    torch.manual_seed(seed_of(options.seed, "weights"))
    model = PooledFeatures(build_encoder(options.d, PRETRAINED_CHANNELS[options.d]))
    module = YardstickStep(model, METHODS[name](), precision).to(device)
    return module.to(memory_format=memory_format(options.d, device))  # type: ignore[call-overload]


def pretrain_yardstick(name: str, options: Options, world: World) -> None:
    """Pre-train an encoder by one of METHODS, with the options of a pre-training of this program."""
    device = choose_devices(device=options.device, gpus=options.gpus, world=world)[0]
    precision = Precision.choose(device, amp=options.amp)
    module = build_yardstick(name, options, device, precision)
    dataset = open_samples(options, ListFolders.at(Path(str(options.lists))))
    loader = Loader(
        dataset, batch_size=options.b, workers=options.workers, seed=options.seed, pin_memory=device.type == "cuda",
        max_bad=options.max_bad,
    )  # fmt: skip
    views: Any = make_views(options)
    task = YardstickTask(
        module, views, n_stages=0, epochs=options.epochs,
        peak_lr=options.lr, warmup_epochs=options.warmup_epochs, seed=options.seed,
    )  # fmt: skip
    optimizer = build_optimizer(
        options.optimizer, module.parameters(), lr=options.lr, momentum=options.momentum,
        weight_decay=options.weight_decay,
    )  # fmt: skip
    output = Path(options.output)
    recorder = Recorder(output, about=describe_run(options, dataset, [device]))
    fixed = fixed_options(options) | {"the list of samples": dataset.fingerprint}
    run_state = RunState(output / "state", fixed=fixed, save_minutes=options.save_minutes)
    Trainer(
        task, optimizer=optimizer, loader=loader, device=device, precision=precision, recorder=recorder,
        run_state=run_state, world=world, epochs=options.epochs, seed=options.seed, log_every=options.log_every,
        after_epoch=[WeightsWriter(output, options.as_dict(), module.model.encoder.state_dict, optimizer)],
    ).fit(run_state.find(options.resume))  # fmt: skip
