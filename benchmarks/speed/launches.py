"""Count what a training step launches on a GPU, without one: operations, copies, and places where the host waits.

Every operation costs the host some 5 to 10 µs, whatever the size of its tensors, so that small batches on a fast GPU
wait for the host. Counted in float32; autocast adds conversions of weights and features.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.operations import META, OperationCounter, on_meta
from benchmarks.speed.results import BenchmarkSettings, Measurement, Result
from benchmarks.speed.training import EPOCH, build_trainer, build_views, make_trainer, raw_batch, sizes_of
from data.inputs import AugmentedCubes, AugmentedInputs
from engine.finetune import FinetuneTask, ForwardStep
from engine.memory_format import memory_format
from engine.precision import Precision
from engine.trainer import Trainer
from losses.classification import known_cross_entropy
from models.classification import build_classifier
from utils.records import LabelledCubes, LabelledImages

PARTS = {
    "data/": "views", "models/": "passes", "losses/": "loss", "engine/guard.py": "guard", "engine/meters.py": "meters",
    "torch/optim/": "optimizer",
}  # fmt: skip
# The rest: gradients set to 0, copies into the memory format of the network, means over replicas.
REST = "loop"
# Largest numbers of operations in a step of pre-training, and of guard and meters together in any step.
MAX_VIEWS, MAX_CHECKS = {2: 350, 3: 700}, 40
BATCH = 4
CLASSES = 14  # findings of X-rays
TOP = 10


def pretraining(d: int, batch: int, folder: Path) -> tuple[Trainer, Any]:
    """The trainer of pre-training on ``meta``, and a raw batch."""
    sizes = sizes_of(d, quick=False)
    trainer = make_trainer(d, META, folder, build_views(d, sizes), amp=False)
    return trainer, raw_batch(d, sizes, batch, META)


def finetuning(d: int, batch: int, folder: Path) -> tuple[Trainer, Any]:
    """The trainer of a classification on ``meta``, and a raw batch."""
    sizes = sizes_of(d, quick=False)
    layout, precision = memory_format(d, META), Precision.choose(META, amp=False)
    classes = CLASSES if d == 2 else 1
    model = build_classifier(dim=d, classes=classes).to(memory_format=layout)
    augment = AugmentedInputs(sizes.whole[0]) if d == 2 else AugmentedCubes()
    task = FinetuneTask(
        ForwardStep(model, precision, layout), make_inputs=augment, loss=known_cross_entropy,
        validate=lambda module: {}, lr=1e-4, seed=0,
    )  # fmt: skip
    task.module.to(META)
    trainer = build_trainer(task, torch.optim.Adam(model.parameters(), lr=1e-4, fused=True), precision, folder)
    (images, sizes_or_local), labels = raw_batch(d, sizes, batch, META), torch.empty(batch, classes, device=META)
    if d == 2:
        return trainer, LabelledImages(images, sizes_or_local, labels)
    return trainer, LabelledCubes(images[:, :1], labels)


STEPS: dict[str, Callable[[int, int, Path], tuple[Trainer, Any]]] = {
    "pre-training": pretraining, "fine-tuning": finetuning,
}  # fmt: skip


def count_step(d: int, phase: str, folder: Path, *, batch: int = BATCH) -> OperationCounter:
    """Count the operations of one training step; those that the first step does once for all are left out."""
    with on_meta():
        trainer, raw = STEPS[phase](d, batch, folder)
        for step in range(2):
            with OperationCounter(PARTS, rest=REST) as counter:
                trainer.train_step(raw, EPOCH, step)
    return counter


def by_part(counter: OperationCounter) -> Counter[str]:
    """Numbers of operations by part of the step."""
    parts: Counter[str] = Counter()
    for where, n in counter.launched.items():
        parts[where.part] += n
    return parts


def results_of(d: int, phase: str, counter: OperationCounter) -> list[Result]:
    """Numbers of operations by part, of copies and of waits, and the lines with most operations."""
    step, parts, lines = f"{d}D {phase}", by_part(counter), Counter[str]()
    for where, n in counter.launched.items():
        lines[where.line] += n
    limits = {f"{step}, views": MAX_VIEWS[d] if phase == "pre-training" else None}
    limits[f"{step}, guard and meters"] = MAX_CHECKS
    counts = {f"{step}, {part}": n for part, n in parts.most_common() if part not in ("guard", "meters")}
    counts[f"{step}, guard and meters"] = parts["guard"] + parts["meters"]
    return [
        Measurement("launches", step, "operations", parts.total()),
        *(Measurement("launches", what, "operations", n, at_most=limits.get(what)) for what, n in counts.items()),
        Measurement("launches", f"{step}, to or from the host", "copies", counter.copies.total(), at_most=0),
        Measurement("launches", f"{step}, the host waits", "times", counter.waits.total(), at_most=0),
        *(Measurement("launches", f"{step}, {line}", "operations", n) for line, n in lines.most_common(TOP)),
    ]


def measure(settings: BenchmarkSettings) -> list[Result]:
    """Count steps of pre-training and fine-tuning in 2D and 3D."""
    return [
        result
        for phase in STEPS
        for d in (2, 3)
        for result in results_of(d, phase, count_step(d, phase, settings.folder))
    ]
