"""Fine-tune a pre-trained encoder and say what it is worth: the story of one such run, top to bottom."""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from data.candidates import CUBE, MovedCubes, open_candidates, plain_cubes
from data.cases import paint, save_mask
from data.datasets import RawDataset
from data.labelled import AugmentedInputs, EverySample, open_labelled, plain_inputs
from data.labels import CLASSES
from data.loader import Loader
from data.segmentation import CROPS, FlippedCrops, as_input, open_segmentation
from engine.classification import report_test
from engine.classification import validation_numbers as classification_numbers
from engine.finetune import FinetuneTask, ForwardStep, Predictions, predict
from engine.keeper import StateKeeper
from engine.layout import memory_format
from engine.metrics import require_metrics
from engine.parallel import check_batch, parallelize
from engine.precision import Precision
from engine.recorder import Recorder
from engine.results import RESULTS, write_results
from engine.segmentation import CaseScore, Inference, Look, require_segmentation, segment
from engine.segmentation import validation_numbers as segmentation_numbers
from engine.segmentation_report import CaseLook, report_segmentation
from engine.trainer import Trainer
from engine.weights import WeightsWriter
from losses.downstream import balanced_cross_entropy, known_cross_entropy
from losses.segmentation import dice_and_cross_entropy
from models.downstream import build_classifier
from models.segmentation import build_segmenter
from utils.devices import choose_devices
from utils.distributed import gather, join
from utils.options import SEGMENTED, Options, fixed_options
from utils.provenance import describe_program
from utils.seeding import seed_of
from utils.world import World

BEST = "best.pt"


class Part(RawDataset, Protocol):
    """Samples, and whom each shows."""

    patients: list[str]


class Parts(Protocol):
    """The data of one fine-tuning; no patient is in two parts."""

    @property
    def train(self) -> Part: ...
    @property
    def valid(self) -> Part: ...
    @property
    def test(self) -> Part: ...
    @property
    def test_source(self) -> str: ...


class Recipe(NamedTuple):
    """What differs between tasks: values, not branches."""

    parts: Parts
    build_model: Callable[..., Any]
    make_inputs: Callable[[Any, torch.Generator], tuple[Tensor, Tensor]]
    loss: Callable[[Tensor, Tensor], Tensor]
    validate: Callable[[nn.Module], dict[str, float]]
    """Every process calls it; ``valid_loss`` chooses the epoch."""
    test: Callable[[nn.Module], dict[str, Any]]
    """Every process calls it; the main one leaves files, and says what ``results.json`` does."""


class Place(NamedTuple):
    """Where a run computes."""

    options: Options
    world: World
    device: torch.device

    def every(self, part: Part, batch_size: int) -> EverySample:
        """This process's samples of a whole part."""
        options, world = self.options, self.world
        return EverySample(
            part, batch_size=batch_size, workers=options.workers, rank=world.rank, world_size=world.size,
            max_bad=options.max_bad,
        )  # fmt: skip


def _broken(batches: EverySample) -> dict[str, str]:
    """What all processes found broken."""
    return {name: reason for found in gather(batches.bad) for name, reason in found.items()}


def _weights(options: Options) -> str | None:
    return None if options.weight == "none" else options.weight


def classification_of(
    place: Place, parts: Parts, *, classes: Sequence[str], augment: Callable[..., Any], plain: Callable[..., Any],
    judge: Callable[[Tensor, Tensor], Tensor],
) -> Recipe:  # fmt: skip
    """The recipe of a classification.

    Args:
        place: where the run computes.
        parts: the data.
        classes: K names.
        augment, plain: a raw batch to (inputs, labels), at random and as for evaluation.
        judge: the loss of the validation and test part.
    """
    options, world, device = place
    require_metrics()

    def said_of(module: nn.Module, part: Part) -> tuple[Predictions, dict[str, str]]:
        batches = place.every(part, max(1, options.b // world.size))
        return predict(module, batches, plain, device), _broken(batches)

    def validate(module: nn.Module) -> dict[str, float]:
        return classification_numbers(said_of(module, parts.valid)[0], classes, parts.valid.patients, judge)

    def test(module: nn.Module) -> dict[str, Any]:
        said, bad = said_of(module, parts.test)
        if not world.is_main:
            return {}
        part = parts.test
        return {"broken_images": bad} | report_test(
            said, classes, part.patients, judge, name=part.name, seed=options.seed, output=Path(options.output)
        )

    build = partial(build_classifier, dim=options.d, classes=len(classes), weights=_weights(options))
    return Recipe(parts, build, augment, known_cross_entropy, validate, test)


def xray_recipe(place: Place) -> Recipe:
    """14 findings of chest X-rays."""
    options = place.options
    parts = open_labelled(
        name=options.n, root=options.data, lists=options.lists, ratio=options.ratio, seed=options.seed,
        size=options.global_size, uncertain=options.uncertain, longest=options.image_size,
    )  # fmt: skip
    return classification_of(
        place, parts, classes=CLASSES[options.n], augment=AugmentedInputs(options.global_size), plain=plain_inputs,
        judge=known_cross_entropy,
    )  # fmt: skip


def candidate_recipe(place: Place) -> Recipe:
    """Nodules of chest CT against false positives; training sees as many of each, and the judge counts them alike."""
    options = place.options
    parts = open_candidates(
        root=options.data, lists=options.lists, ratio=options.ratio, seed=options.seed, cube=options.crop or CUBE
    )
    return classification_of(
        place, parts, classes=("nodule",), augment=MovedCubes(), plain=plain_cubes, judge=balanced_cross_entropy
    )


def segmentation_recipe(place: Place) -> Recipe:
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

    def scores_of(module: nn.Module, part: Part, look: Look | None) -> tuple[list[CaseScore], dict[str, str]]:
        batches = place.every(part, 1)
        return segment(module, batches, inference, look=look), _broken(batches)

    def validate(module: nn.Module) -> dict[str, float]:
        return segmentation_numbers(scores_of(module, parts.valid, None)[0])

    def keep_mask(index: int, chosen: Any) -> None:
        save_mask(output / "masks", parts.test.cases[index], paint(chosen, layout.regions))

    def test(module: nn.Module) -> dict[str, Any]:
        look = CaseLook(keep_mask if options.save_masks else None)
        scores, bad = scores_of(module, parts.test, look)
        overlays = look.gathered(parts.test.name)
        if not world.is_main:
            return {}
        return {"broken_images": bad, "hd95_unit": "mm" if options.d == 3 else "pixels"} | report_segmentation(
            scores, overlays, regions, parts.test.patients, name=parts.test.name, seed=options.seed, output=output
        )

    build = partial(
        build_segmenter, dim=options.d, regions=len(regions), weights=_weights(options), skips=options.skips,
        in_channels=3 if options.d == 2 else layout.channels, norm=options.norm or layout.norm,
    )  # fmt: skip
    return Recipe(parts, build, FlippedCrops(options.d), dice_and_cross_entropy, validate, test)


RECIPES: dict[str, Callable[[Place], Recipe]] = {
    "chest": xray_recipe,
    "chexpert": xray_recipe,
    "luna": candidate_recipe,
    **dict.fromkeys(SEGMENTED, segmentation_recipe),
}


def build_model(options: Options, recipe: Recipe, world: World, layout: torch.memory_format) -> Any:
    """The network, the same on every process, from random or pre-trained weights."""
    torch.manual_seed(seed_of(options.seed, "weights"))
    model = recipe.build_model()
    if world.is_main:
        print(f"--weight {options.weight}: {model.match or 'from scratch'}", file=sys.stderr)
    if options.compile:
        model.compile()
    return model.to(memory_format=layout)


def describe_run(options: Options, parts: Parts, model: Any, devices: list[torch.device]) -> dict[str, Any]:
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


def finetune(options: Options, world: World) -> None:
    """Labelled images -> augmented inputs -> network -> best epoch by validation -> one look at the test part."""
    devices = choose_devices(device=options.device, gpus=options.gpus, world=world)
    check_batch(options.b, replicas=max(len(devices), world.size))
    join(world, devices[0])
    output = Path(options.output)

    recipe = RECIPES[options.n](Place(options, world, devices[0]))
    parts = recipe.parts
    if world.is_main:
        print(
            f"--ratio {options.ratio:g}: {len(parts.train)} samples to train on, {len(parts.valid)} to choose the "
            f"epoch, {len(parts.test)} to test ({parts.test_source})", file=sys.stderr
        )  # fmt: skip
    loader = Loader(
        parts.train, batch_size=options.b, workers=options.workers, seed=options.seed, rank=world.rank,
        world_size=world.size, pin_memory=devices[0].type == "cuda", max_bad=options.max_bad,
    )  # fmt: skip
    fingerprints = {f"the {name} part": getattr(parts, name).fingerprint for name in ("train", "valid", "test")}
    fixed = fixed_options(options) | fingerprints
    keeper = StateKeeper(output / "state", fixed=fixed, save_minutes=options.save_minutes, writes=world.is_main)
    state = keeper.find(options.resume)

    layout = memory_format(options.d, devices[0])
    model = build_model(options, recipe, world, layout)
    precision = Precision.choose(devices[0], amp=options.amp)
    module = parallelize(ForwardStep(model, precision, layout), devices, world)
    task = FinetuneTask(
        module, make_inputs=recipe.make_inputs, loss=recipe.loss, validate=recipe.validate, lr=options.lr,
        seed=options.seed, rank=world.rank, best_file=output / BEST if world.is_main else None,
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr, fused=True)
    recorder = Recorder(output, about=describe_run(options, parts, model, devices), active=world.is_main)
    weights = WeightsWriter(output, options.as_dict(), model.state_dict, optimizer)
    Trainer(
        task, optimizer=optimizer, loader=loader, precision=precision, recorder=recorder, keeper=keeper, world=world,
        epochs=options.epochs, seed=options.seed, log_every=options.log_every,
        after_epoch=[weights] if world.is_main else [],
    ).fit(state)  # fmt: skip
    if (output / RESULTS).exists():
        print(f"{output / RESULTS} is there already: the test part is not looked at again", file=sys.stderr)
        return
    task.use_best()
    found = recipe.test(task.module)
    if world.is_main:
        write_results(output, {
            "data_set": options.n,
            "weights": options.weight,
            "best_epoch": task.best_epoch,
            "valid_loss": task.best_loss,
            "test_part": parts.test_source,
            **found,
        })  # fmt: skip
