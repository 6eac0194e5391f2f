"""The segmentation task."""

from pathlib import Path
from typing import Any

from torch import nn

from data.datasets.segmentation import CROPS, open_segmentation
from data.inputs import FlippedCrops, as_input
from data.mask_files import regions_to_mask, save_mask
from data.preprocess import Preprocessing
from downstream.tasks import Recipe, RunContext, Split, broken_samples
from downstream.tuned import TunedNetwork
from evaluation.segmentation import (
    CaseScore,
    Inference,
    OnCase,
    require_scores,
    require_segmentation,
    segment,
    validation_numbers,
)
from evaluation.segmentation_report import CaseRecorder, report_segmentation
from losses.segmentation import dice_and_cross_entropy
from utils.options import SEGMENTATION


def segmentation_recipe(context: RunContext) -> Recipe:
    """Return the recipe of a segmentation, with one sigmoid output per region."""
    options, world, device, lists = context
    require_segmentation()
    square = (options.global_size, options.global_size)
    crop = square if options.d == 2 else options.crop or CROPS[options.n]
    # A folder's lists beside --weight may be those of all images, with masks or without: only typed ones are used.
    used_lists = lists if options.n != "folder" or options.lists else None
    splits = open_segmentation(
        name=options.n, root=options.data, lists=used_lists, ratio=options.ratio, seed=options.seed, dim=options.d,
        crop=crop, classes=options.classes, max_side=options.image_size,
        hounsfield=None if options.intensity is None else options.intensity == "ct",
        cache=options.cache, skip=options.skip, max_bad=options.max_bad,
    )  # fmt: skip
    layout, output = splits.layout, Path(options.output)
    regions = [region.name for region in layout.regions]
    inference = Inference(crop, as_input(options.d), layout.exclusive, device)

    def scores_of(
        module: nn.Module, split: Split, title: str, on_case: OnCase | None = None
    ) -> tuple[list[CaseScore], dict[str, str]]:
        batches = context.eval_batches(split, 1)
        scores = segment(module, batches, inference, on_case=on_case)
        require_scores(scores, split=title, name=split.name)
        return scores, broken_samples(batches)

    def validate(module: nn.Module) -> dict[str, float]:
        return validation_numbers(scores_of(module, splits.valid, "validation")[0])

    def write_mask(index: int, chosen: Any) -> None:
        save_mask(output / "masks", splits.test.cases[index], regions_to_mask(chosen, layout.regions))

    def test(module: nn.Module) -> dict[str, Any]:
        recorder = CaseRecorder(write_mask if options.save_masks else None)
        scores, broken = scores_of(module, splits.test, "test", recorder)
        overlays = recorder.gathered(splits.test.name)
        if not world.is_main:
            return {}
        return {"broken_images": broken, "hd95_unit": "mm" if options.d == 3 else "pixels"} | report_segmentation(
            scores, overlays, regions, splits.test.patients, name=splits.test.name, seed=options.seed, output=output
        )

    reading = Preprocessing(
        options.d, tuple(crop), "ct" if layout.reading.hounsfield else "minmax", whole=True,
        image_size=options.image_size,
    )  # fmt: skip
    network = TunedNetwork(
        SEGMENTATION, options.n, tuple(regions), reading, mask_values=tuple(r.mask_value for r in layout.regions),
        exclusive=layout.exclusive, channels=layout.channels, suffixes=layout.suffixes,
        norm=options.norm or layout.norm, skips=options.skips,
    )  # fmt: skip
    return Recipe(splits, network.build, FlippedCrops(options.d), dice_and_cross_entropy, validate, test, network)
