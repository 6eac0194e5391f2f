"""What differs between fine-tuning tasks: values, not branches."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from data.datasets.raw import RawDataset
from data.evaluation_loader import EvaluationLoader
from utils.distributed import gather
from utils.options import Options
from utils.provenance import describe_program
from utils.world import World

BEST = "best.pt"


class Split(RawDataset, Protocol):
    """Samples, and whom each shows."""

    patients: list[str]


class Splits(Protocol):
    """The data of one fine-tuning; no patient is in two parts."""

    @property
    def train(self) -> Split: ...
    @property
    def valid(self) -> Split: ...
    @property
    def test(self) -> Split: ...
    @property
    def test_source(self) -> str: ...


class Recipe(NamedTuple):
    """What differs between tasks: values, not branches."""

    parts: Splits
    build_model: Callable[..., Any]
    make_inputs: Callable[[Any, torch.Generator], tuple[Tensor, Tensor]]
    loss: Callable[[Tensor, Tensor], Tensor]
    validate: Callable[[nn.Module], dict[str, float]]
    """Every process calls it; ``valid_loss`` chooses the epoch."""
    test: Callable[[nn.Module], dict[str, Any]]
    """Every process calls it; the main one leaves files, and says what ``results.json`` does."""


class RunContext(NamedTuple):
    """Where a run computes."""

    options: Options
    world: World
    device: torch.device

    def every(self, part: Split, batch_size: int) -> EvaluationLoader:
        """This process's samples of a whole part."""
        options, world = self.options, self.world
        return EvaluationLoader(
            part, batch_size=batch_size, workers=options.workers, rank=world.rank, world_size=world.size,
            max_bad=options.max_bad,
        )  # fmt: skip


def broken_samples(batches: EvaluationLoader) -> dict[str, str]:
    """What all processes found broken."""
    return {name: reason for found in gather(batches.bad) for name, reason in found.items()}


def weight_file(options: Options) -> str | None:
    return None if options.weight == "none" else options.weight


def describe_run(options: Options, parts: Splits, model: Any, devices: list[torch.device]) -> dict[str, Any]:
    """What ``run.json`` says of the run."""
    return {
        "options": options.as_dict(),
        **describe_program(),
        "samples": len(parts.train),
        "validation_samples": len(parts.valid),
        "test_samples": len(parts.test),
        "test": parts.test_source,
        "list": parts.train.fingerprint,
        "match": str(model.match) if model.match else "from scratch",
        "devices": devices,
    }
