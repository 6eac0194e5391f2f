"""The values in which fine-tuning tasks differ, and what fine-tuning and probes share."""

import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from data.catalog.list_folders import ListFolders
from data.datasets.raw import RawDataset
from data.evaluation_loader import EvaluationLoader
from downstream.tuned import TunedNetwork
from evaluation.predictions import Predictions, gather_predictions, predict, predict_volumes
from models.pretrained import Match, load_weights
from utils.distributed import gather
from utils.options import Options
from utils.provenance import describe_program
from utils.world import World

BEST = "best.pt"
FROM_SCRATCH = "from scratch"


class Split(RawDataset, Protocol):
    """Samples of one split, and the patient ID of each."""

    patients: list[str]


class Splits(Protocol):
    """The three splits of a data set; no patient is in more than one of them."""

    @property
    def train(self) -> Split: ...
    @property
    def valid(self) -> Split: ...
    @property
    def test(self) -> Split: ...
    @property
    def test_source(self) -> str: ...


class Recipe(NamedTuple):
    """The values in which tasks differ."""

    splits: Splits
    build_model: Callable[..., Any]
    make_inputs: Callable[[Any, torch.Generator], tuple[Tensor, Tensor]]
    loss: Callable[[Tensor, Tensor], Tensor]
    validate: Callable[[nn.Module], dict[str, Any]]
    """Evaluates on the validation split; every process calls it. ``valid_loss`` chooses the best epoch."""
    test: Callable[[nn.Module], dict[str, Any]]
    """Evaluates on the test split; every process calls it. The main one writes files and returns the entries for
    ``results.json``, the others an empty dict."""
    network: TunedNetwork
    """What prediction needs to know, stored beside the weights."""


class Evaluator(NamedTuple):
    """How the outputs of a network for a split are computed."""

    predict: Callable[[nn.Module, Iterable[tuple[list[int], Any]], torch.device], Predictions]
    at_once: int | None = None
    """Samples in a batch of a process; None for its share of ``--b``."""


def on_inputs(make_inputs: Callable[[Any], tuple[Tensor, Tensor]]) -> Evaluator:
    """Return the evaluator that shows each sample once.

    Args:
        make_inputs: maps a raw batch on the device to (inputs, labels).
    """
    return Evaluator(lambda module, batches, device: predict(module, batches, make_inputs, device))


# All windows of a volume are in memory.
ON_VOLUMES = Evaluator(predict_volumes, at_once=1)


class RunContext(NamedTuple):
    """Options, processes, device and list folders of a run."""

    options: Options
    world: World
    device: torch.device
    lists: ListFolders

    def eval_batches(self, split: Split, batch_size: int) -> EvaluationLoader:
        """Return batches of this process's share of the samples of a split, each sample once."""
        options, world = self.options, self.world
        return EvaluationLoader(
            split, batch_size=batch_size, workers=options.workers, rank=world.rank, world_size=world.size,
            max_bad=options.max_bad,
        )  # fmt: skip

    def predict(
        self, module: nn.Module, split: Split, evaluator: Evaluator, title: str
    ) -> tuple[Predictions, dict[str, str]]:
        """Return the outputs for a split, those of all processes, and its broken samples by name with reasons.

        Raises:
            UserError: no sample can be read, or outputs are not finite.
        """
        batches = self.eval_batches(split, evaluator.at_once or max(1, self.options.b // self.world.size))
        own = evaluator.predict(module, batches, self.device)
        return gather_predictions(own, split=title, name=split.name), broken_samples(batches)


def run_lists(options: Options, world: World) -> ListFolders:
    """Return the folders with the lists of a fine-tuning or a probe."""
    return ListFolders.of_run(
        typed=options.lists, output=options.output, weight=options.weight, resume=options.resume, is_main=world.is_main
    )


def broken_samples(batches: EvaluationLoader) -> dict[str, str]:
    """Return the broken samples that all processes found, by name with the reason."""
    return {name: reason for found in gather(batches.bad) for name, reason in found.items()}


def load_weight(encoder: nn.Module, options: Options, world: World) -> Match | None:
    """Load ``--weight`` into an encoder, print and return what matched; with ``--weight none``, load nothing.

    Raises:
        UserError: the file cannot be read, or belongs to another network.
    """
    match = None if options.weight in (None, "none") else load_weights(encoder, options.weight)
    if world.is_main:
        print(f"--weight {options.weight}: {match or FROM_SCRATCH}", file=sys.stderr)
    return match


def describe_run(options: Options, splits: Splits, match: Match | None, devices: list[torch.device]) -> dict[str, Any]:
    """Return the entries for ``run.json``."""
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
