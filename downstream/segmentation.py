"""Segmentation as a task."""

from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from data.datasets.segmentation import CROPS, open_segmentation
from data.inputs import FlippedCrops, as_input
from data.mask_files import regions_to_mask, save_mask
from downstream.tasks import Recipe, RunContext, Split, broken_samples, weight_file
from evaluation.segmentation import CaseScore, Inference, OnCase, require_segmentation, segment
from evaluation.segmentation import validation_numbers as segmentation_numbers
from evaluation.segmentation_report import CaseRecorder, report_segmentation
from losses.segmentation import dice_and_cross_entropy
from models.segmentation import build_segmenter


def segmentation_recipe(place: RunContext) -> Recipe:
    """Regions of images, one sigmoid output each."""
    options, world, device = place
    require_segmentation()
    flat = (options.global_size, options.global_size)
    crop = flat if options.d == 2 else options.crop or CROPS[options.n]
    parts = open_segmentation(
        name=options.n, root=options.data, lists=options.lists, ratio=options.ratio, seed=options.seed, dim=options.d,
        crop=crop, classes=options.classes, hounsfield=options.intensity == "ct", longest=options.image_size,
        cache=options.cache,
    )  # fmt: skip
    layout, output = parts.layout, Path(options.output)
    regions = [region.name for region in layout.regions]
    inference = Inference(crop, as_input(options.d), layout.exclusive, device)

    def scores_of(module: nn.Module, part: Split, look: OnCase | None) -> tuple[list[CaseScore], dict[str, str]]:
        batches = place.every(part, 1)
        return segment(module, batches, inference, look=look), broken_samples(batches)

    def validate(module: nn.Module) -> dict[str, float]:
        return segmentation_numbers(scores_of(module, parts.valid, None)[0])

    def keep_mask(index: int, chosen: Any) -> None:
        save_mask(output / "masks", parts.test.cases[index], regions_to_mask(chosen, layout.regions))

    def test(module: nn.Module) -> dict[str, Any]:
        look = CaseRecorder(keep_mask if options.save_masks else None)
        scores, bad = scores_of(module, parts.test, look)
        overlays = look.gathered(parts.test.name)
        if not world.is_main:
            return {}
        return {"broken_images": bad, "hd95_unit": "mm" if options.d == 3 else "pixels"} | report_segmentation(
            scores, overlays, regions, parts.test.patients, name=parts.test.name, seed=options.seed, output=output
        )

    build = partial(
        build_segmenter, dim=options.d, regions=len(regions), weights=weight_file(options), skips=options.skips,
        in_channels=3 if options.d == 2 else layout.channels, norm=options.norm or layout.norm,
    )  # fmt: skip
    return Recipe(parts, build, FlippedCrops(options.d), dice_and_cross_entropy, validate, test)
