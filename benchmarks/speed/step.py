"""Measure one training step on the CPU, compared with a plain step: the same network and loss without optimisation."""

from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.speed.results import BenchmarkSettings, Measurement, Result, Skipped
from benchmarks.speed.timing import medians, seconds_of, threads
from benchmarks.speed.training import EPOCH, N_LOCAL, build_network, make_trainer, random_views, sizes_of
from engine.precision import cpu_has_bf16
from losses.pcrlv2 import draw_stages, pcrlv2_loss
from utils.records import Views
from utils.schedules import restoration_weight

BATCHES = {2: 8, 3: 2}
QUICK_BATCH = 2
CPU = torch.device("cpu")
# A 3D step takes half a minute.
MAX_REPEATS = 3
# A decoder stage computed layer by layer, as published.
PLAIN_DECODE: dict[int, Callable[[Any, Tensor], Tensor]] = {
    2: lambda stage, x: stage.conv2(stage.conv1(F.interpolate(x, scale_factor=2, mode="nearest"))),
    3: lambda stage, x: stage.ops(stage.up_conv(x)),
}


def plain_step(d: int, views: Views) -> Callable[[], None]:
    """Return a plain step: three full forward passes with restoration, default memory format, float32, plain SGD."""
    model = build_network(d).train()
    for stage in model.stages:
        stage.decode = partial(PLAIN_DECODE[d], stage)  # type: ignore[method-assign]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(0)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        local = views.local.transpose(0, 1).flatten(0, 1)
        first, second, third = (model(x) for x in (views.global1, views.global2, local))
        stages = draw_stages(len(model.stages), N_LOCAL, generator)
        terms = pcrlv2_loss(first, second, third, views.target, stages=stages, beta=restoration_weight(EPOCH))
        terms.total.backward()
        optimizer.step()
        terms.total.item()

    return run


def our_step(d: int, views: Views, settings: BenchmarkSettings, *, amp: bool) -> Callable[[], None]:
    """Return a step of the training loop on the same views."""
    trainer = make_trainer(d, CPU, settings.folder, lambda batch, generator: views, amp=amp)
    batch, steps = (views.global1,), count()
    trainer.check_half_precision(batch)
    return lambda: trainer.train_step(batch, EPOCH, next(steps))


def measure(settings: BenchmarkSettings) -> list[Result]:
    """Measure 2D and 3D in float32 and, where the CPU has it, bf16, on all cores."""
    results: list[Result] = []
    repeats = min(MAX_REPEATS, settings.repeats)
    with threads(torch.get_num_threads() if settings.quick else torch.multiprocessing.cpu_count()):
        for d, batch in BATCHES.items():
            batch = QUICK_BATCH if settings.quick else batch
            views = random_views(sizes_of(d, quick=settings.quick), batch, CPU)
            bf16 = [our_step(d, views, settings, amp=True)] if cpu_has_bf16() else []
            steps = [plain_step(d, views), our_step(d, views, settings, amp=False), *bf16]
            plain, ours, *ours_bf16 = medians(*map(seconds_of, steps), repeats=repeats)
            what = f"a {d}D training step on the CPU, {batch} samples"
            results.append(Measurement("step", f"{what}, float32", "s", ours, "plain step", plain, at_least=1.25))
            results += [
                Measurement("step", f"{what}, bf16", "s", x, "plain step", plain, at_least=2.2) for x in ours_bf16
            ]
    if not cpu_has_bf16():
        results.append(Skipped("step", "training steps on the CPU, bf16", "this CPU has no bf16"))
    return results
