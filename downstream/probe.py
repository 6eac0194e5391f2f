"""A probe of frozen features, from options to results, and the probe during pre-training."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from data.catalog.list_folders import ListFolders
from data.catalog.xrays import XRAYS
from data.datasets.probe_subsets import eval_candidates, eval_images
from data.evaluation_loader import EvaluationLoader
from data.inputs import eval_cubes, eval_inputs
from downstream.classification import candidate_splits, volume_splits, xray_splits
from downstream.tasks import (
    ON_VOLUMES,
    Evaluator,
    RunContext,
    Split,
    describe_run,
    load_weight,
    on_inputs,
    run_lists,
)
from engine.finetune import ForwardStep
from engine.memory_format import memory_format
from engine.parallel import parallelize
from engine.precision import Precision
from engine.recorder import Recorder
from evaluation.epoch_probe import EpochProbe, require_labels
from evaluation.features import PooledFeatures
from evaluation.probes import require_probes
from evaluation.probes_report import claim_output, run_probes
from evaluation.results import write_results
from models.encoders import PRETRAINED_CHANNELS, build_encoder
from models.pretrained import Match
from utils.devices import choose_devices
from utils.distributed import init_process_group
from utils.errors import UserError
from utils.options import Options
from utils.output_lock import lock_output
from utils.seeding import seed_of
from utils.world import World


class ProbeData(NamedTuple):
    """The values in which probed data sets differ."""

    train: Split
    valid: Split
    test: Split
    test_source: str
    classes: Sequence[str]
    evaluator: Evaluator


def xray_probe(options: Options, lists: ListFolders) -> ProbeData:
    """Return the data for findings of chest X-rays."""
    splits = xray_splits(options, lists, options.ratio)
    # Fine-tuning trains on random boxes of whole images; a probe learns from and is scored on their centre.
    train = eval_images(splits.train, options.global_size)
    return ProbeData(train, splits.valid, splits.test, splits.test_source, splits.classes, on_inputs(eval_inputs))


def candidate_probe(options: Options, lists: ListFolders) -> ProbeData:
    """Return the data for nodules of chest CT against false positives; training has at most ten of these per nodule."""
    splits = candidate_splits(options, lists)
    train = eval_candidates(splits.train)
    return ProbeData(train, splits.valid, splits.test, splits.test_source, ("nodule",), on_inputs(eval_cubes))


def folder_probe(options: Options, lists: ListFolders) -> ProbeData:
    """Return the data for the labels of a user's own images or volumes."""
    if options.d == 2:
        return xray_probe(options, lists)
    splits = volume_splits(options, lists)
    return ProbeData(
        splits.whole_train(), splits.valid, splits.test, splits.test_source, splits.classes, ON_VOLUMES
    )  # fmt: skip


PROBED: dict[str, Callable[[Options, ListFolders], ProbeData]] = {
    **dict.fromkeys(XRAYS, xray_probe),
    "luna": candidate_probe,
    "folder": folder_probe,
}


def build_frozen(options: Options, world: World) -> tuple[PooledFeatures, Match | None]:
    """Build the encoder, and return it with what matched of ``--weight``; None if it is random."""
    torch.manual_seed(seed_of(options.seed, "weights"))
    model = PooledFeatures(build_encoder(options.d, PRETRAINED_CHANNELS[options.d]))
    match = load_weight(model.encoder, options, world)
    if options.compile:
        model.compile()
    return model, match


def probe(options: Options, world: World) -> None:
    """Labelled samples -> features of a frozen encoder -> two simple classifiers -> evaluation on the test split."""
    require_probes("--phase probe")
    devices = choose_devices(device=options.device, gpus=options.gpus, world=world)
    init_process_group(world, devices[0])
    output = Path(options.output)
    lock_output(output, world)
    claim_output(output, is_main=world.is_main)

    context = RunContext(options, world, devices[0], run_lists(options, world))
    data = PROBED[options.n](options, context.lists)
    splits: dict[str, Split] = {"train": data.train, "valid": data.valid, "test": data.test}
    if world.is_main:
        print(
            f"--ratio {options.ratio:g}: {len(data.train)} samples to learn from, {len(data.valid)} to choose the "
            f"regularisation, {len(data.test)} to test ({data.test_source})", file=sys.stderr
        )  # fmt: skip
    tensor_format = memory_format(options.d, devices[0])
    precision = Precision.choose(devices[0], amp=options.amp, verbose=world.is_main)
    model, match = build_frozen(options, world)
    model.to(memory_format=tensor_format)  # type: ignore[call-overload]
    # Nothing is trained: every process has its own copy of the module and a share of the samples.
    module = parallelize(ForwardStep(model, precision, tensor_format), devices, World())
    features, broken = {}, {}
    for title, split in splits.items():
        features[title], unread = context.predict(module, split, data.evaluator, title)
        broken.update(unread)
    if not world.is_main:
        return
    found = run_probes(
        features, data.classes, {title: split.patients for title, split in splits.items()},
        neighbours=options.probe_neighbours, name=data.test.name, seed=options.seed, output=output,
    )  # fmt: skip
    Recorder(output, about=describe_run(options, data, match, devices)).update_run(status="finished")
    about = {"data_set": options.n, "weights": options.weight, "test_split": data.test_source, "broken_images": broken}
    write_results(output, {**about, **found})


def prepare_epoch_probe(options: Options, lists: ListFolders, device: torch.device) -> Callable[..., EpochProbe]:
    """Return a function that builds the probe of pre-training from an encoder, its precision and its memory format.

    The probe uses the training and validation splits of fine-tuning, never the test split; with ``--ratio 1``, which
    leaves nothing for fine-tuning, it uses those of the whole list.

    Raises:
        UserError: there are no labels, or scikit-learn is not installed.
    """
    require_probes("--probe_every")
    try:
        splits = xray_splits(options, lists, options.ratio if options.ratio < 1 else 0.0)
    except UserError as error:
        raise UserError(f"--probe_every: {error}") from None
    scored = options.probe_images // 4
    train, valid = (
        eval_images(split, options.global_size, at_most=count, seed=options.seed)
        for split, count in ((splits.train, options.probe_images - scored), (splits.valid, scored))
    )
    require_labels(train.labels.numpy(), valid.labels.numpy())
    # Broken images are left out here; the loader of the run itself checks their number.
    train_batches, valid_batches = (
        EvaluationLoader(split, batch_size=options.b, workers=options.workers, max_bad=1.0) for split in (train, valid)
    )

    def make(encoder: nn.Module, precision: Precision, tensor_format: torch.memory_format) -> EpochProbe:
        return EpochProbe(
            ForwardStep(PooledFeatures(encoder), precision, tensor_format), train=train_batches, valid=valid_batches,
            make_inputs=eval_inputs, device=device, classes=splits.classes, patients=valid.patients,
            neighbours=options.probe_neighbours, every=options.probe_every, epochs=options.epochs,
        )  # fmt: skip

    return make
