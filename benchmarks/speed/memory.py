"""Count what a step of pre-training keeps for its backward pass, and its arithmetic, with and without ``--amp`` and
``--checkpoint_activations``.

Counted on tensors without data (PyTorch's ``FakeTensorMode``), so that no GPU and no time is needed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed.results import BenchmarkSettings, Measurement, Result
from benchmarks.speed.training import N_LOCAL, build_network, random_views, sizes_of
from engine.precision import Precision
from engine.pretrain import PretrainStep
from models.checkpointing import checkpoint_activations
from utils.constants import forget_constants

CPU = torch.device("cpu")
BATCHES, QUICK_BATCH = {2: 64, 3: 32}, 2  # as published
# With --checkpoint_activations, relative to without.
MAX_KEPT, MAX_ARITHMETIC = 0.5, 1.4
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


class Step(NamedTuple):
    """What a step needs."""

    kept: int
    """Bytes that autograd keeps for the backward pass, without the weights."""
    weights: int
    """Bytes of weights, gradients and momentum."""
    flop: int
    """Multiplications and additions of products, forward and backward."""


def count_step(d: int, *, batch: int, dtype: torch.dtype, checkpointed: bool, quick: bool = False) -> Step:
    """Count one step of pre-training at the published sizes."""
    with constants_forgotten(), FakeTensorMode():
        model = build_network(d).train()
        if checkpointed:
            checkpoint_activations(model)
        layout = torch.channels_last if d == 2 else torch.channels_last_3d
        precision = Precision(CPU, dtype, torch.amp.GradScaler("cpu", enabled=False))
        step = PretrainStep(model, precision, layout)
        views = random_views(sizes_of(d, quick=quick), batch, CPU)
        stages = [i % len(model.stages) for i in range(1 + 2 * N_LOCAL)]
        kept = Kept()
        with FlopCounterMode(display=False) as flop:
            with torch.autograd.graph.saved_tensors_hooks(kept.add, lambda x: x):
                total = step(views, stages, 1.0).terms.total
            total.backward()
        parameters = list(model.parameters())
        size = sum(p.numel() * p.element_size() for p in parameters)
        return Step(kept.size_without(parameters), 3 * size, flop.get_total_flops())


@contextmanager
def constants_forgotten() -> Iterator[None]:
    """Let no constant without data remain, nor one with data be used."""
    forget_constants()
    try:
        yield
    finally:
        forget_constants()


class Kept:
    """Collects the memory of the tensors that autograd keeps, each once."""

    def __init__(self) -> None:
        self.storages: dict[int, torch.UntypedStorage] = {}

    def add(self, x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        self.storages[storage._cdata] = storage
        return x

    def size_without(self, tensors: list[Tensor] | list[torch.nn.Parameter]) -> int:
        """Bytes, without the memory of ``tensors``."""
        without = {x.untyped_storage()._cdata for x in tensors}
        return sum(storage.nbytes() for place, storage in self.storages.items() if place not in without)


def measure(settings: BenchmarkSettings) -> list[Result]:
    """Count steps at the published batch sizes."""
    results: list[Result] = []
    for d, batch in BATCHES.items():
        batch = QUICK_BATCH if settings.quick else batch
        for name, dtype in DTYPES.items():
            plain, less = (
                count_step(d, batch=batch, dtype=dtype, checkpointed=flag, quick=settings.quick)
                for flag in (False, True)
            )
            what = f"{d}D step, {batch} samples, {name}"
            with_option = f"{what}, --checkpoint_activations"
            results += [
                Measurement("memory", f"{what}: kept for the backward pass", "GB", plain.kept / 1e9),
                Measurement("memory", f"{with_option}: kept", "GB", less.kept / 1e9, "without it", plain.kept / 1e9,
                            at_most=MAX_KEPT),
            ]  # fmt: skip
        results += [
            Measurement("memory", f"{d}D weights, gradients and momentum", "GB", plain.weights / 1e9),
            Measurement("memory", f"{d}D, --checkpoint_activations: arithmetic of a sample", "GFLOP",
                        less.flop / batch / 1e9, "without it", plain.flop / batch / 1e9, at_most=MAX_ARITHMETIC),
        ]  # fmt: skip
    return results
