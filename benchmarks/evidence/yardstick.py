"""A yardstick: Barlow Twins (arXiv 2103.03230) of the library lightly, on the same encoder, views and optimizer."""

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

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

# Width of the projections whose correlations are compared; the library's default of 8,192 is for batches of 2,048.
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
            "--arms barlow_twins needs the package lightly, which is not installed: pip install lightly"
        ) from None


class TwinStep(nn.Module):
    """Embeds both global views and compares them: B C *S twice to a loss.

    Args:
        model: encoder with average pooling, B C *S to B F.
        head: B F to projections.
        loss: of two batches of projections.
    """

    def __init__(self, model: PooledFeatures, head: nn.Module, loss: nn.Module, precision: Precision) -> None:
        super().__init__()
        self.model, self.head, self.loss, self.precision = model, head, loss, precision

    def forward(self, views: Views) -> Tensor:
        with self.precision.autocast():
            first, second = (self.head(self.model(view)) for view in (views.global1, views.global2))
        # A mean over the projections instead of the library's sum: the loop takes a loss above 1000 for a failure.
        return self.loss(at_least_float32(first), at_least_float32(second)) / first.shape[1]


class TwinTask(PretrainTask):
    """The same views and learning rates as those of pre-training, with another loss."""

    def forward_only(self, raw: tuple[Tensor, ...]) -> None:
        self.module(self.views(raw, 0, 0))

    def step(self, raw: tuple[Tensor, ...], epoch: int, step: int) -> StepOutput:
        loss = self.module(self.views(raw, epoch, step))
        return StepOutput(loss, {"total": loss.detach()})


def build_twins(options: Options, device: torch.device, precision: Precision) -> TwinStep:
    """The encoder with the library's head and loss, on the device."""
    losses, heads = require_lightly()
    torch.manual_seed(seed_of(options.seed, "weights"))
    model = PooledFeatures(build_encoder(options.d, PRETRAINED_CHANNELS[options.d]))
    head = heads.BarlowTwinsProjectionHead(FEATURES, PROJECTION, PROJECTION)
    module = TwinStep(model, head, losses.BarlowTwinsLoss(), precision).to(device)
    return module.to(memory_format=memory_format(options.d, device))  # type: ignore[call-overload]


def pretrain_twins(options: Options, world: World) -> None:
    """Pre-train an encoder by Barlow Twins, with the options of a pre-training of this program."""
    device = choose_devices(device=options.device, gpus=options.gpus, world=world)[0]
    precision = Precision.choose(device, amp=options.amp)
    module = build_twins(options, device, precision)
    dataset = open_samples(options, ListFolders.at(Path(str(options.lists))))
    loader = Loader(
        dataset, batch_size=options.b, workers=options.workers, seed=options.seed, pin_memory=device.type == "cuda",
        max_bad=options.max_bad,
    )  # fmt: skip
    views: Any = make_views(options)
    task = TwinTask(
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
