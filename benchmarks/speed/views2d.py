"""Measure loading and views in 2D, compared with the published recipe of torchvision and Pillow."""

import random
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision import transforms as T

from benchmarks.speed.images import cache_of, write_images
from benchmarks.speed.results import BenchmarkSettings, Measurement, Result
from benchmarks.speed.timing import core_ms_of, medians, threads
from data.datasets.images import ImageFiles
from data.views2d import MEAN, STD, Views2d

N_GLOBAL, N_LOCAL = 2, 6
SQUARES, SIDE = 3, 32  # side in pixels


def cutout(image: Tensor) -> Tensor:
    """Set three random squares of side 32 in C H W to 0."""
    height, width = image.shape[1:]
    for _ in range(SQUARES):
        y, x = random.randrange(height), random.randrange(width)
        image[:, max(0, y - SIDE // 2) : y + SIDE // 2, max(0, x - SIDE // 2) : x + SIDE // 2] = 0
    return image


def blur(image: Image.Image) -> Image.Image:
    """Blur with Pillow, σ U(0.1, 2) pixels."""
    return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


def spatial(size: int, area: tuple[float, float]) -> Callable[[Image.Image], Image.Image]:
    """Compose crop, rotation and flip."""
    return T.Compose([T.RandomResizedCrop(size, scale=area), T.RandomRotation(10), T.RandomHorizontalFlip()])


def make_recipe() -> Callable[[Path], list[Tensor]]:
    """Build the published recipe, which maps one file to the inputs of all views and the target."""
    crop_global, crop_local = spatial(224, (0.3, 1.0)), spatial(96, (0.05, 0.3))
    tensor = [T.ToTensor(), T.Normalize(MEAN, STD)]
    jitter = T.ColorJitter(0.4, 0.4, 0.4, 0.4)
    appearance = [T.RandomGrayscale(0.2), T.RandomApply([T.Lambda(blur)], 0.5), jitter, *tensor]
    to_target = T.Compose(tensor)
    to_global, to_local = T.Compose([*appearance, T.Lambda(cutout)]), T.Compose(appearance)

    def run(path: Path) -> list[Tensor]:
        with Image.open(path) as file:
            image = file.convert("RGB")
        first, second = crop_global(image), crop_global(image)
        local = [to_local(crop_local(image)) for _ in range(N_LOCAL)]
        return [to_global(first), to_global(second), to_target(first), *local]

    return run


def ours_of(dataset: ImageFiles) -> Callable[[], None]:
    """Return an action that makes the views of one batch of all images, from files or a cache."""
    views, generator = Views2d(n_local=N_LOCAL), torch.Generator().manual_seed(0)

    def run() -> None:
        views(dataset.collate([dataset[i] for i in range(len(dataset))]), generator)

    return run


def measure(settings: BenchmarkSettings) -> list[Result]:
    """Measure loading and views from files and from a cache."""
    files = write_images(settings)
    cached = cache_of(files, settings)
    paths, recipe = [files.path(i) for i in range(len(files))], make_recipe()
    with threads(1):
        theirs, ours, ours_cached = medians(
            core_ms_of(lambda: [recipe(path) for path in paths], len(files)),
            core_ms_of(ours_of(files), len(files)),
            core_ms_of(ours_of(cached), len(files)),
            repeats=settings.repeats,
        )
    what, yardstick = "all before the 2D network, an image", "torchvision and Pillow"
    return [
        Measurement("views2d", what, "ms of a core", ours, yardstick, theirs, at_least=3),
        Measurement("views2d", f"{what}, --cache", "ms of a core", ours_cached, yardstick, theirs, at_least=10),
    ]
