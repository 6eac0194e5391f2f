"""Say what a pre-trained encoder is worth, fine-tuned or frozen: the stories of such runs, top to bottom."""

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
from data.labelled import AugmentedInputs, EverySample, LabelledParts, open_labelled, plain_inputs
from data.labels import CLASSES
from data.loader import Loader
from data.probes import plain_candidates, plain_images
from data.segmentation import CROPS, FlippedCrops, as_input, open_segmentation
from engine.classification import report_test
from engine.classification import validation_numbers as classification_numbers
from engine.epoch_probe import EpochProbe, require_labels
from engine.features import PooledFeatures, gather_features
from engine.finetune import FinetuneTask, ForwardStep
from engine.keeper import StateKeeper
from engine.layout import memory_format
from engine.metrics import require_metrics
from engine.outputs import Outputs, extract, gather_outputs
from engine.parallel import check_batch, parallelize
from engine.precision import Precision
from engine.probe import require_probes
from engine.probe_report import claim_output, run_probes
from engine.recorder import Recorder
from engine.results import RESULTS, write_results
from engine.segmentation import CaseScore, Inference, Look, require_segmentation, segment
from engine.segmentation import validation_numbers as segmentation_numbers
from engine.segmentation_report import CaseLook, report_segmentation
from engine.trainer import Trainer, unwrapped
from engine.weights import WeightsWriter
from losses.downstream import balanced_cross_entropy, known_cross_entropy
from losses.segmentation import dice_and_cross_entropy
from models.downstream import build_classifier
from models.export import build_encoder, load_into
from models.segmentation import build_segmenter
from utils.devices import choose_devices
from utils.distributed import gather, join
from utils.errors import UserError
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

    def said_of(module: nn.Module, part: Part) -> tuple[Outputs, dict[str, str]]:
        batches = place.every(part, max(1, options.b // world.size))
        return gather_outputs(extract(unwrapped(module), batches, plain, device)), _broken(batches)

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


def xray_parts(options: Options, ratio: float) -> LabelledParts:
    """Labelled chest X-rays: the list after ``ratio``, and the test list."""
    return open_labelled(
        name=options.n, root=options.data, lists=options.lists, ratio=ratio, seed=options.seed,
        size=options.global_size, uncertain=options.uncertain, longest=options.image_size,
    )  # fmt: skip


def xray_recipe(place: Place) -> Recipe:
    """14 findings of chest X-rays."""
    options = place.options
    return classification_of(
        place, xray_parts(options, options.ratio), classes=CLASSES[options.n],
        augment=AugmentedInputs(options.global_size), plain=plain_inputs, judge=known_cross_entropy,
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
    precision = Precision.choose(devices[0], amp=options.amp, says=world.is_main)
    module = parallelize(ForwardStep(model, precision, layout), devices, world, uses_all=True)
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
    # As the first process finds it: other machines may have no such folder, and all must do the same.
    if gather((output / RESULTS).exists())[0]:
        if world.is_main:
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


class ProbeData(NamedTuple):
    """What differs between data sets that are probed."""

    train: Part
    valid: Part
    test: Part
    test_source: str
    classes: Sequence[str]
    make_inputs: Callable[[Any], tuple[Tensor, Tensor]]


def xray_probe(options: Options) -> ProbeData:
    """14 findings of chest X-rays."""
    parts = xray_parts(options, options.ratio)
    # Fine-tuning trains on random boxes of whole images; a probe learns from what it is judged by, the centre.
    train = plain_images(parts.train, options.global_size)
    return ProbeData(train, parts.valid, parts.test, parts.test_source, CLASSES[options.n], plain_inputs)


def candidate_probe(options: Options) -> ProbeData:
    """Nodules of chest CT against false positives, of which training has at most ten to a nodule."""
    parts = open_candidates(
        root=options.data, lists=options.lists, ratio=options.ratio, seed=options.seed, cube=options.crop or CUBE
    )
    return ProbeData(
        plain_candidates(parts.train), parts.valid, parts.test, parts.test_source, ("nodule",), plain_cubes
    )


PROBED: dict[str, Callable[[Options], ProbeData]] = {
    "chest": xray_probe,
    "chexpert": xray_probe,
    "luna": candidate_probe,
}


def build_frozen(options: Options, world: World) -> PooledFeatures:
    """The encoder, from pre-trained or random weights, the latter those that fine-tuning from scratch starts from."""
    torch.manual_seed(seed_of(options.seed, "weights"))
    channels = 3 if options.d == 2 else 1
    model = PooledFeatures(build_encoder(options.d, channels))
    weights = _weights(options)
    model.match = None if weights is None else load_into(model.encoder, weights, channels)
    if world.is_main:
        print(f"--weight {options.weight}: {model.match or 'random'}", file=sys.stderr)
    if options.compile:
        model.compile()
    return model


def probe(options: Options, world: World) -> None:
    """Labelled samples -> features of a frozen encoder -> two simple classifiers -> one look at the test part."""
    require_probes("--phase probe")
    devices = choose_devices(device=options.device, gpus=options.gpus, world=world)
    join(world, devices[0])
    output = Path(options.output)
    claim_output(output, writes=world.is_main)

    data = PROBED[options.n](options)
    parts: dict[str, Part] = {"train": data.train, "valid": data.valid, "test": data.test}
    if world.is_main:
        print(
            f"--ratio {options.ratio:g}: {len(data.train)} samples to learn from, {len(data.valid)} to choose the "
            f"regularisation, {len(data.test)} to test ({data.test_source})", file=sys.stderr
        )  # fmt: skip
    layout = memory_format(options.d, devices[0])
    precision = Precision.choose(devices[0], amp=options.amp, says=world.is_main)
    model = build_frozen(options, world).to(memory_format=layout)
    # Nothing is trained: every process has a copy of its own, and a share of the samples.
    module = parallelize(ForwardStep(model, precision, layout), devices, World())
    place, features, broken = Place(options, world, devices[0]), {}, {}
    for name, part in parts.items():
        batches = place.every(part, max(1, options.b // world.size))
        features[name] = gather_features(extract(module, batches, data.make_inputs, devices[0]), part=name)
        broken.update(_broken(batches))
    if not world.is_main:
        return
    found = run_probes(
        features, data.classes, {name: part.patients for name, part in parts.items()},
        neighbours=options.probe_neighbours, name=data.test.name, seed=options.seed, output=output,
    )  # fmt: skip
    Recorder(output, about=describe_run(options, data, model, devices)).update_run(status="finished")
    about = {"data_set": options.n, "weights": options.weight, "test_part": data.test_source, "broken_images": broken}
    write_results(output, {**about, **found})


def prepare_epoch_probe(options: Options, device: torch.device) -> Callable[..., EpochProbe]:
    """What makes the probe of pre-training of an encoder, its precision and its memory format.

    It looks at the parts that fine-tuning trains on and chooses the epoch by, with ``--ratio 1`` those of the whole
    list; never at the test part.

    Raises:
        UserError: there are no labels, or scikit-learn is not installed.
    """
    require_probes("--probe_every")
    try:
        parts = xray_parts(options, options.ratio if options.ratio < 1 else 0.0)
    except UserError as error:
        raise UserError(f"--probe_every: {error}") from None
    judging = options.probe_images // 4
    train, valid = (
        plain_images(part, options.global_size, at_most=count, seed=options.seed)
        for part, count in ((parts.train, options.probe_images - judging), (parts.valid, judging))
    )
    require_labels(train.labels.numpy(), valid.labels.numpy())
    # Broken images are left out: how many there may be is for the run itself to say.
    learning, judged = (
        EverySample(part, batch_size=options.b, workers=options.workers, max_bad=1.0) for part in (train, valid)
    )

    def make(encoder: nn.Module, precision: Precision, layout: torch.memory_format) -> EpochProbe:
        return EpochProbe(
            ForwardStep(PooledFeatures(encoder), precision, layout), train=learning, valid=judged,
            make_inputs=plain_inputs, device=device, classes=CLASSES[options.n], patients=valid.patients,
            neighbours=options.probe_neighbours, every=options.probe_every, epochs=options.epochs,
        )  # fmt: skip

    return make
