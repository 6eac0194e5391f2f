"""Pre-training with the project's own loop and loss, whole or with one of the method's parts left out."""

import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.transfer.phantoms import UnlabelledPhantoms, draw_phantoms
from benchmarks.transfer.settings import Settings
from data.loader import Loader
from data.views2d import Views2d
from engine.pictures import RestorationPictures
from engine.precision import Precision
from engine.pretrain import PretrainStep, PretrainTask, StepResult
from engine.recorder import Recorder
from engine.run_state import RunState
from engine.trainer import Trainer
from losses.pcrlv2 import pcrlv2_loss, spread
from models.pcrlv2_model import PCRLv2
from utils.records import LossTerms, Output, RawImages, Views
from utils.seeding import seed_of
from utils.world import World


class Weights(NamedTuple):
    """What each term counts in the sum that is minimised."""

    restoration: float = 1.0
    intermediate_restoration: float = 1.0
    global_similarity: float = 1.0
    local_similarity: float = 1.0

    @property
    def compares(self) -> bool:
        return bool(self.global_similarity or self.local_similarity)


VARIANTS = {
    "whole method": Weights(),
    "no restoration": Weights(restoration=0, intermediate_restoration=0),
    "no intermediate restoration": Weights(intermediate_restoration=0),
    "no comparison": Weights(global_similarity=0, local_similarity=0),
    "no local views": Weights(local_similarity=0),
}
WHOLE = "whole method"


class ShrunkViews:
    """The published 2D views, made at their published sizes and then shrunk.

    Cutout and blur are so many pixels wide, whatever the view's side: made at 64 pixels, three squares of side 32 would
    hide half of a view, and the strongest blur all that is as small as a nodule.

    Args:
        size, local_size: sides in pixels.
        n_local: local views of each image.
    """

    def __init__(self, size: int, local_size: int, n_local: int) -> None:
        self.views, self.size, self.local_size = Views2d(n_local=n_local), size, local_size

    def __call__(self, batch: tuple[Tensor, ...], generator: torch.Generator) -> Views:
        views = self.views(RawImages(*batch), generator)
        local = shrink(views.local.flatten(0, 1), self.local_size).unflatten(0, views.local.shape[:2])
        global1, global2, target = (shrink(image, self.size) for image in views[:3])
        return Views(global1, global2, target, local)


def shrink(images: Tensor, size: int) -> Tensor:
    """N C H W to N C size size."""
    return F.interpolate(images, size=size, mode="bilinear", antialias=True)


class WeightedStep(PretrainStep):
    """A step whose terms are weighted; passes that only terms of weight 0 need are not run.

    Every pass has BatchNorm statistics of its own, so that leaving one out changes nothing of the others.
    """

    def __init__(
        self, model: nn.Module, precision: Precision, memory_format: torch.memory_format, weights: Weights
    ) -> None:
        super().__init__(model, precision, memory_format)
        self.parts = weights

    def forward(self, views: Views, stages: list[int], beta: float) -> StepResult:
        """Views to loss terms, of which the total is the weighted sum."""
        view1 = self.run_model(views.global1, restore=True)
        view2 = self.run_model(views.global2, restore=False) if self.parts.compares else view1
        if self.parts.local_similarity:
            local = self.run_model(views.local.transpose(0, 1).flatten(0, 1), restore=False)
        else:
            local, stages = Output(None, [], []), stages[:1]
        terms = pcrlv2_loss(view1, view2, local, views.target, stages=stages, beta=beta)
        terms = terms._replace(total=weighted_total(terms, self.parts))
        return StepResult(LossTerms(*(term.unsqueeze(0) for term in terms)), spread(view1).unsqueeze(0))


def weighted_total(terms: LossTerms, weights: Weights) -> Tensor:
    """The sum of the terms that count."""
    total = torch.zeros_like(terms.total)
    for name, weight in weights._asdict().items():
        if weight:
            total = total + weight * getattr(terms, name)
    return total


def build_task(model: PCRLv2, variant: str, settings: Settings, seed: int) -> PretrainTask:
    """What the loop trains."""
    step = WeightedStep(model, settings.precision, torch.channels_last, VARIANTS[variant]).to(settings.torch_device)
    views = ShrunkViews(settings.size, settings.local_size, settings.local_views)
    return PretrainTask(
        step, views, n_stages=len(model.stages), epochs=settings.epochs, peak_lr=settings.lr, seed=seed
    )  # fmt: skip


def build_optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Of OPTIMIZERS, with the published momentum and weight decay."""
    if settings.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), lr=settings.lr, momentum=0.9, weight_decay=1e-4, fused=True)
    return torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=1e-4, fused=True)


def pretrain(variant: str, replicate: int, settings: Settings, folder: Path) -> nn.Module:
    """Pre-train once, from random weights.

    Args:
        variant: of VARIANTS.
        replicate: all variants of one replicate start from the same weights and see the same batches and views.
        settings: of the benchmark.
        folder: for records and pictures.

    Returns:
        The encoder.
    """
    seed = seed_of(settings.seed, "pretraining", replicate)
    torch.manual_seed(seed)
    model = PCRLv2(encoder_weights=None).to(memory_format=torch.channels_last)
    images = draw_phantoms(settings.images, settings.size, "unlabelled").images
    task = build_task(model, variant, settings, seed)
    optimizer = build_optimizer(model, settings)
    # A pre-training that was cut short starts anew, and so do its records.
    (folder / "metrics.jsonl").unlink(missing_ok=True)
    recorder = Recorder(folder, about={"variant": variant, "replicate": replicate}, active=True)
    pictures = RestorationPictures(
        model, partial(task.views, step=0), recorder, every=settings.epochs + 1, epochs=settings.epochs
    )
    with tempfile.TemporaryDirectory() as state:
        Trainer(
            task, optimizer=optimizer,
            loader=Loader(UnlabelledPhantoms(images, "phantoms"), batch_size=settings.batch, workers=0, seed=seed),
            device=settings.torch_device, precision=settings.precision, recorder=recorder,
            run_state=RunState(Path(state), fixed={}, save_minutes=1e9, is_main=False), world=World(),
            epochs=settings.epochs, seed=seed, after_epoch=[pictures],
        ).fit()  # fmt: skip
    return model.model.encoder
