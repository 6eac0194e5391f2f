"""Pre-training as a task of the loop: one module call a step, from views to loss terms."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from engine.precision import Precision, at_least_float32
from losses.pcrlv2 import draw_stages, pcrlv2_loss, spread
from utils.distributed import replica_devices, unwrapped
from utils.records import AS_PUBLISHED, LossTerms, LossWeights, Output, StepOutput, Views
from utils.schedules import learning_rate, restoration_weight, warmup_factor
from utils.seeding import seed_of, torch_generator


class MakeViews(Protocol):
    """``data.views2d.Views2d`` or ``data.views3d.Views3d``."""

    def __call__(self, batch: tuple[Tensor, ...], generator: torch.Generator) -> Views: ...


class StepResult(NamedTuple):
    """Loss terms and the spread of the projections (0 when collapsed), each of shape (1,), for DataParallel."""

    terms: LossTerms
    spread: Tensor


class PretrainStep(nn.Module):
    """Runs the three passes of one step and computes the loss; this module is replicated or distributed.

    One call a step, since several forward passes under DistributedDataParallel fail when some heads are not used.
    """

    def __init__(
        self, model: nn.Module, precision: Precision, memory_format: torch.memory_format,
        weights: LossWeights = AS_PUBLISHED,
    ) -> None:  # fmt: skip
        super().__init__()
        self.model, self.precision, self.memory_format, self.weights = model, precision, memory_format, weights

    def run_model(self, x: Tensor, *, restore: bool) -> Output:
        """The output for images B C *S, in float32 or wider."""
        with self.precision.autocast():
            output = self.model(x.contiguous(memory_format=self.memory_format), restore=restore)
        return Output(
            None if output.restoration is None else at_least_float32(output.restoration),
            [(at_least_float32(z), at_least_float32(p)) for z, p in output.embeddings],
            [at_least_float32(image) for image in output.intermediate],
        )

    def forward(self, views: Views, stages: list[int] | Tensor, beta: float | Tensor) -> StepResult:
        """Loss terms of the views; all local views are one batch of V·B samples, view 0 first.

        Passes that only terms of weight 0 need are not run. The others are unaffected: each pass has its own BatchNorm
        statistics.
        """
        view1 = self.run_model(views.global1, restore=True)
        view2, local = view1, Output(None, [], [])
        if self.weights.global_similarity or self.weights.local_similarity:
            view2 = self.run_model(views.global2, restore=False)
        if self.weights.local_similarity:
            local = self.run_model(views.local.transpose(0, 1).flatten(0, 1), restore=False)
        else:
            stages = stages[:1]
        terms = pcrlv2_loss(
            view1, view2, local, views.target, stages=stages, beta=beta, weights=self.weights
        )  # fmt: skip
        return StepResult(LossTerms(*(term.unsqueeze(0) for term in terms)), spread(view1).unsqueeze(0))


class PretrainTask:
    """Pre-training as a task of the loop.

    Args:
        step_module: a :class:`PretrainStep`, which may be replicated or distributed.
        make_views: (raw batch, generator) to :class:`Views`, on the batch's device.
        n_stages: decoder stages of the model.
        epochs, peak_lr, warmup_epochs: of the learning rate schedule.
        seed, rank: with epoch and step, determine every random draw.
        probe: called after every epoch with its number; returns further numbers to record.
    """

    def __init__(
        self, step_module: nn.Module, make_views: MakeViews, *, n_stages: int, epochs: int, peak_lr: float,
        warmup_epochs: float = 0.0, seed: int, rank: int = 0, probe: Callable[[int], dict[str, float]] | None = None,
    ) -> None:  # fmt: skip
        self.module = step_module
        self.make_views = make_views
        self.n_stages, self.epochs, self.peak_lr, self.warmup_epochs = n_stages, epochs, peak_lr, warmup_epochs
        self.seed, self.rank, self.probe = seed, rank, probe

    def learning_rate(self, epoch: int, done: float) -> float:
        """The rate of a step, of which ``done`` is the share of the epoch that is over after it."""
        return learning_rate(epoch, self.epochs, self.peak_lr) * warmup_factor(epoch + done, self.warmup_epochs)

    def epoch_numbers(self, epoch: int) -> dict[str, float]:
        """The numbers to record of an epoch besides the loss terms."""
        return {"beta": restoration_weight(epoch), **(self.probe(epoch) if self.probe else {})}

    def views(self, raw: tuple[Tensor, ...], epoch: int, step: int) -> Views:
        """The views of a step: a pure function of the batch and of (seed, epoch, step, rank)."""
        generator = torch.Generator(raw[0].device).manual_seed(self.views_seed(epoch, step))
        with torch.no_grad():
            return self.make_views(raw, generator)

    def views_seed(self, epoch: int, step: int) -> int:
        """What the generator of a step's views begins with."""
        return seed_of(self.seed, "views", epoch, step, self.rank)

    def stages(self, n_local: int, epoch: int, step: int) -> list[int]:
        """The stages that a step draws, the same on every rank."""
        return draw_stages(self.n_stages, n_local, torch_generator(self.seed, "stages", epoch, step))

    def forward_only(self, raw: tuple[Tensor, ...]) -> None:
        """The forward passes of a step over one replica's share of a batch, for the check of half precision."""
        replicas = len(replica_devices(self.module)) or 1
        views = Views(*(field.chunk(replicas)[0] for field in self.views(raw, 0, 0)))
        unwrapped(self.module)(views, [0] * (1 + 2 * views.local.shape[1]), restoration_weight(0))

    def step(self, raw: tuple[Tensor, ...], epoch: int, step: int) -> StepOutput:
        """The loss of one batch, on the device. In 3D the number of local views is that of the crop files."""
        views = self.views(raw, epoch, step)
        return self.output(views, self.stages(views.local.shape[1], epoch, step), restoration_weight(epoch))

    def output(self, views: Views, stages: list[int] | Tensor, beta: float | Tensor) -> StepOutput:
        """The loss of a step's views."""
        result = self.module(views, stages, beta)
        terms = LossTerms(*(term.mean() for term in result.terms))
        numbers = {name: term.detach() for name, term in terms._asdict().items()}
        return StepOutput(terms.total, numbers | {"projection_spread": result.spread.mean()})
