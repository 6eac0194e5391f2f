"""Fine-tune a pre-trained encoder and say what it is worth: the story of one such run, top to bottom."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data.labelled import AugmentedInputs, EverySample, LabelledFiles, LabelledParts, open_labelled, plain_inputs
from data.labels import CLASSES
from data.loader import Loader
from engine.finetune import FinetuneTask, ForwardStep, Predictions, predict
from engine.keeper import StateKeeper
from engine.metrics import auroc, require_metrics
from engine.parallel import check_batch, parallelize
from engine.precision import Precision
from engine.recorder import Recorder
from engine.results import PREDICTIONS, RESULTS, ROC, describe_auroc, draw_roc, write_predictions, write_results
from engine.trainer import Trainer
from engine.weights import WeightsWriter
from losses.downstream import known_cross_entropy
from models.downstream import Classifier, build_classifier
from utils.devices import choose_devices
from utils.distributed import gather, join
from utils.options import Options, fixed_options
from utils.provenance import describe_program
from utils.seeding import seed_of
from utils.world import World

BEST = "best.pt"


class Evaluator:
    """Runs the network over a whole part.

    Args:
        options: batch size, workers and tolerance of broken samples.
        world: this process's place.
        device: where the network is.
    """

    def __init__(self, options: Options, world: World, device: torch.device) -> None:
        self.options, self.world, self.device = options, world, device

    def predict(self, module: nn.Module, part: LabelledFiles) -> tuple[Predictions, dict[str, str]]:
        """What the network says of a part, and its broken samples."""
        options, world = self.options, self.world
        batches = EverySample(
            part, batch_size=max(1, options.b // world.size), workers=options.workers, rank=world.rank,
            world_size=world.size, max_bad=options.max_bad,
        )  # fmt: skip
        said = predict(module, batches, plain_inputs, self.device)
        return said, {name: reason for found in gather(batches.bad) for name, reason in found.items()}

    def validate(self, module: nn.Module, part: LabelledFiles) -> dict[str, float]:
        """The loss, which chooses the epoch, and the mean AUROC where there is one."""
        said, _ = self.predict(module, part)
        numbers = {"valid_loss": known_cross_entropy(said.outputs, said.labels).item()}
        names = CLASSES[self.options.n]
        patients = [part.patients[i] for i in said.indices]
        found = auroc(said.outputs.numpy(), said.labels.numpy(), names, patients=patients, seed=0, replicates=0)
        return numbers | ({"valid_auroc": found.mean.value} if found.mean else {})


def build_model(options: Options, world: World) -> Classifier:
    """The network, the same on every process, from random or pre-trained weights."""
    torch.manual_seed(seed_of(options.seed, "weights"))
    weights = None if options.weight == "none" else options.weight
    model = build_classifier(dim=options.d, classes=len(CLASSES[options.n]), weights=weights)
    if world.is_main:
        print(f"--weight {options.weight}: {model.match or 'from scratch'}", file=sys.stderr)
    if options.compile:
        model.compile()
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def describe_run(
    options: Options, parts: LabelledParts, model: Classifier, devices: list[torch.device]
) -> dict[str, Any]:
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
    require_metrics()
    devices = choose_devices(device=options.device, gpus=options.gpus, world=world)
    check_batch(options.b, replicas=max(len(devices), world.size))
    join(world, devices[0])
    output = Path(options.output)

    parts = open_labelled(
        name=options.n, root=options.data, lists=options.lists, ratio=options.ratio, seed=options.seed,
        size=options.global_size, uncertain=options.uncertain, longest=options.image_size,
    )  # fmt: skip
    loader = Loader(
        parts.train, batch_size=options.b, workers=options.workers, seed=options.seed, rank=world.rank,
        world_size=world.size, pin_memory=devices[0].type == "cuda", max_bad=options.max_bad,
    )  # fmt: skip
    fingerprints = {f"the {name} part": getattr(parts, name).fingerprint for name in ("train", "valid", "test")}
    fixed = fixed_options(options) | fingerprints
    keeper = StateKeeper(output / "state", fixed=fixed, save_minutes=options.save_minutes, writes=world.is_main)
    state = keeper.find(options.resume)

    model = build_model(options, world)
    precision = Precision.choose(devices[0], amp=options.amp)
    module = parallelize(ForwardStep(model, precision, torch.channels_last), devices, world)
    evaluator = Evaluator(options, world, devices[0])
    task = FinetuneTask(
        module, make_inputs=AugmentedInputs(options.global_size), loss=known_cross_entropy,
        validate=partial(evaluator.validate, part=parts.valid), lr=options.lr, seed=options.seed, rank=world.rank,
        best_file=output / BEST if world.is_main else None,
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
    run_test(evaluator, task, parts, output)


def run_test(evaluator: Evaluator, task: FinetuneTask, parts: LabelledParts, output: Path) -> None:
    """The one look at the test part, with the weights of the best epoch."""
    options, names = evaluator.options, CLASSES[evaluator.options.n]
    said, bad = evaluator.predict(task.module, parts.test)
    if not evaluator.world.is_main:
        return
    scores, labels = said.outputs.sigmoid().numpy(), said.labels.numpy()
    patients = [parts.test.patients[i] for i in said.indices]
    found = auroc(scores, labels, names, patients=patients, seed=options.seed)
    write_predictions(output / PREDICTIONS, [parts.test.name(i) for i in said.indices], scores, labels, names)
    draw_roc(output / ROC, scores, labels, names, found)
    write_results(output, {
        "data_set": options.n,
        "weights": options.weight,
        "best_epoch": task.best_epoch,
        "valid_loss": task.best_loss,
        "test_part": parts.test_source,
        "test_images": len(said.indices),
        "test_patients": len(set(patients)),
        "test_loss": known_cross_entropy(said.outputs, said.labels).item(),
        "broken_images": bad,
        **describe_auroc(found, labels, names),
    })  # fmt: skip
    for name, lack in found.missing.items():
        print(f"{name}: {lack} in the test part, no AUROC", file=sys.stderr)
    if found.mean:
        value, low, high = found.mean
        interval = "no interval" if low is None else f"95 % interval {low:.4f} to {high:.4f}"
        print(f"test: mean AUROC {value:.4f}, {interval}", file=sys.stderr)
