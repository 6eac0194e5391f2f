"""3D views on one core, beside TorchIO's transforms of the published recipe."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from data.views3d import Views3d
from utils.records import RawCrops

BATCH, ROUNDS = 8, 7


def median_ms(action: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """Median time of an action in ms, after one that does not count."""
    action()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        action()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def make_torchio_recipe() -> Callable[[torch.Tensor, torch.Tensor], None]:
    """The published recipe for one sample: pair 2 X Y Z, local V x y z."""
    import torchio as tio

    spatial = tio.Compose([tio.RandomFlip(), tio.RandomAffine()])
    blurred = [tio.RandomBlur(), tio.RandomNoise(), tio.RandomGamma()]
    local_intensity = tio.Compose([*blurred, tio.ZNormalization()])
    global_intensity = tio.Compose([*blurred, tio.RandomSwap(patch_size=(8, 4, 4)), tio.ZNormalization()])

    def run(pair: torch.Tensor, local: torch.Tensor) -> None:
        for crop in pair.unsqueeze(1):
            global_intensity(spatial(crop))
        for crop in local.unsqueeze(1):
            local_intensity(spatial(crop))

    return run


def measure() -> dict[str, float]:
    """Median ms per sample of ours and of TorchIO's, and their ratio; one thread, crops of the published sizes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    raw = RawCrops(torch.rand(BATCH, 2, 64, 64, 32), torch.rand(BATCH, 6, 16, 16, 16))
    recipe = make_torchio_recipe()
    views = Views3d()
    ours = median_ms(lambda: views(raw, generator)) / BATCH
    theirs = median_ms(lambda: recipe(raw.pair[0], raw.local[0]))
    torch.set_num_threads(threads)
    return {"ours_ms": ours, "torchio_ms": theirs, "ratio": theirs / ours}


if __name__ == "__main__":
    print(measure())
