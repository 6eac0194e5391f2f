"""What differs between fine-tuning tasks: values, not branches."""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from data.catalog.list_folders import ListFolders
from data.datasets.raw import RawDataset
from data.evaluation_loader import EvaluationLoader
from models.pretrained import Match, load_weights
from utils.distributed import gather
from utils.options import Options
from utils.provenance import describe_program
from utils.world import World

BEST = "best.pt"
FROM_SCRATCH = "from scratch"


class Split(RawDataset, Protocol):
    """Samples, and the patient ID of each."""

    patients: list[str]


class Splits(Protocol):
    """The data of one fine-tuning; no patient is in two of them."""

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

    splits: Splits
    build_model: Callable[..., Any]
    make_inputs: Callable[[Any, torch.Generator], tuple[Tensor, Tensor]]
    loss: Callable[[Tensor, Tensor], Tensor]
    validate: Callable[[nn.Module], dict[str, float]]
    """Every process calls it; ``valid_loss`` chooses the epoch."""
    test: Callable[[nn.Module], dict[str, Any]]
    """Every process calls it; the main one writes files, and returns what ``results.json`` holds."""


class RunContext(NamedTuple):
    """Where a run computes, and where its lists are."""

    options: Options
    world: World
    device: torch.device
    lists: ListFolders

    def eval_batches(self, split: Split, batch_size: int) -> EvaluationLoader:
        """This process's share of all samples of a split."""
        options, world = self.options, self.world
        return EvaluationLoader(
            split, batch_size=batch_size, workers=options.workers, rank=world.rank, world_size=world.size,
            max_bad=options.max_bad,
        )  # fmt: skip


def run_lists(options: Options, world: World) -> ListFolders:
    """The folders of lists of a fine-tuning or a probe."""
    return ListFolders.of_run(
        typed=options.lists, output=options.output, weight=options.weight, resume=options.resume, is_main=world.is_main
    )


def broken_samples(batches: EvaluationLoader) -> dict[str, str]:
    """What all processes found broken."""
    return {name: reason for found in gather(batches.bad) for name, reason in found.items()}


def load_weight(encoder: nn.Module, options: Options, world: World) -> Match | None:
    """Load ``--weight`` into an encoder, and say what of it was used; None and nothing with ``--weight none``.

    Raises:
        UserError: the file cannot be read, or is of another network.
    """
    match = None if options.weight in (None, "none") else load_weights(encoder, options.weight)
    if world.is_main:
        print(f"--weight {options.weight}: {match or FROM_SCRATCH}", file=sys.stderr)
    return match


def describe_run(options: Options, splits: Splits, match: Match | None, devices: list[torch.device]) -> dict[str, Any]:
    """What ``run.json`` says of the run."""
    return {
        "options": options.as_dict(),
        **describe_program(),
        "samples": len(splits.train),
        "validation_samples": len(splits.valid),
        "test_samples": len(splits.test),
        "test": splits.test_source,
        "list": splits.train.fingerprint,
        "match": str(match or FROM_SCRATCH),
        "devices": devices,
    }
