"""Pre-train an encoder with PCRLv2: the story of one run, top to bottom."""

import sys
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from data.catalog.list_folders import ListFolders
from data.catalog.xray_dataset import Selection
from data.crop_facts import describe_crops
from data.datasets.image_cache import CachedImages
from data.datasets.images import ImageFiles
from data.datasets.luna import CropFiles
from data.datasets.pretraining import open_dataset
from data.datasets.raw import RawDataset
from data.datasets.whole_volumes import WholeVolumes
from data.fresh_crops import FreshCrops
from data.loader import Loader
from data.readers.grey_levels import FROM_FILE
from data.readers.images import ImageSpec
from data.views2d import Views2d
from data.views3d import Views3d
from engine.curves import CurvePictures
from engine.memory_format import memory_format
from engine.model_card import write_model_card
from engine.optimizers import build_optimizer
from engine.parallel import check_batch, parallelize
from engine.pictures import RestorationPictures
from engine.precision import Precision
from engine.pretrain import PretrainStep, PretrainTask
from engine.recorder import Recorder
from engine.run_state import RunState
from engine.step_graph import GraphedSteps, check_graph
from engine.stopping import EXIT_STATUS, Stopped
from engine.trainer import Trainer
from engine.weights import WeightsWriter
from models.checkpointing import checkpoint_activations
from models.pcrlv2_model import PCRLv2
from models.pcrlv2_model_3d import PCRLv23d
from models.pretrained import load_weights
from utils.devices import choose_devices
from utils.distributed import destroy_process_group, init_process_group, is_peer_failure
from utils.errors import UserError, run_command
from utils.options import FINETUNE, PRETASK, Options, fixed_options, parse_options
from utils.output_lock import lock_output, unlock_output
from utils.provenance import describe_program
from utils.records import LossWeights
from utils.seeding import seed_of
from utils.world import World, read_world


class Dimension(NamedTuple):
    """What differs between 2D and 3D: values, not branches."""

    build_model: Callable[..., PCRLv2 | PCRLv23d]
    build_views: Callable[[], Any]
    weights_of: Callable[[Any], nn.Module]
    memory_format: torch.memory_format


def make_dimension(options: Options, device: torch.device, *, resumed: bool) -> Dimension:
    """The values of ``--d``."""
    # Weights that --init or a resumed state would overwrite are not downloaded.
    downloaded = options.encoder_weights != "none" and not options.init and not resumed
    weights = options.encoder_weights if downloaded else None
    views = partial(make_views, options)
    if options.d == 2:
        # As published, 2D weights hold the encoder alone and 3D weights the whole model.
        return Dimension(
            partial(PCRLv2, encoder_weights=weights), views, attrgetter("model.encoder"), memory_format(2, device)
        )
    return Dimension(PCRLv23d, views, lambda model: model, memory_format(3, device))


def make_views(options: Options) -> Views2d | Views3d:
    """What makes the views of a step from raw samples."""
    if options.d == 3:
        return Views3d(swaps=options.swaps)
    return Views2d(
        global_size=options.global_size, local_size=options.local_size, cutout_size=options.cutout_size
    )  # fmt: skip


def build_model(options: Options, dimension: Dimension, world: World, *, resumed: bool) -> PCRLv2 | PCRLv23d:
    """The network with random, ImageNet's or given weights, equal on all processes; a resumed state replaces them."""
    torch.manual_seed(seed_of(options.seed, "weights"))
    model = dimension.build_model()
    if options.init and not resumed:
        match = load_weights(model, options.init)
        if world.is_main:
            print(f"--init {options.init}: {match}", file=sys.stderr)
    if options.checkpoint_activations:
        checkpoint_activations(model)
    if options.compile:
        model.compile()
    return model.to(memory_format=dimension.memory_format)


def note_random_start(options: Options, world: World, *, resumed: bool) -> None:
    """Report what the published SGD does to random first weights in 2D; its published start is ImageNet's weights."""
    is_random = options.d == 2 and options.encoder_weights == "none" and not options.init and not resumed
    if is_random and options.optimizer == "sgd" and world.is_main:
        print(
            f"random first weights: SGD at --lr {options.lr:g} may turn the first convolution into a blur, as the "
            "published 0.01 does; --optimizer adamw --lr 1e-3 --weight_decay 0.05 does not, and gains as much in fewer "
            "steps (docs/evidence.md)",
            file=sys.stderr,
        )


def prepare_probe(options: Options, lists: ListFolders, world: World, device: torch.device) -> Callable[..., Any]:
    """A function from encoder to the probe of ``--probe_every``; missing labels are reported here, before training."""
    if not options.probe_every or not world.is_main:
        return lambda *_: None
    # Imported here, so that other runs do not need the packages of probes.
    from downstream.probe import prepare_epoch_probe

    return prepare_epoch_probe(options, lists, device)


def open_samples(options: Options, lists: ListFolders) -> ImageFiles | CropFiles | FreshCrops:
    """The samples to pre-train on."""
    dataset = open_dataset(
        name=options.n, root=options.data, lists=lists, ratio=options.ratio, seed=options.seed, dim=options.d,
        spec=ImageSpec(options.image_size, options.intensity or FROM_FILE, options.invert),
        selection=Selection(options.views, options.skip), max_bad=options.max_bad,
    )  # fmt: skip
    return FreshCrops(dataset, seed=options.seed) if isinstance(dataset, WholeVolumes) else dataset


def open_for_check(options: Options, lists: ListFolders) -> tuple[RawDataset, Views2d | Views3d]:
    """What ``--check`` looks at: the samples and their views; labels of probes and ``--init`` are read too."""
    world, cpu = World(), torch.device("cpu")
    dataset = open_samples(options, lists)
    prepare_probe(options, lists, world, cpu)
    if options.init:
        build_model(options, make_dimension(options, cpu, resumed=False), world, resumed=False)
    return dataset, make_views(options)


def fill_cache(options: Options, dataset: ImageFiles, world: World) -> CachedImages:
    """The same samples from a memory map, which the main process fills first."""
    assert options.cache is not None
    cached = CachedImages(dataset, options.cache, size=options.cache_size)
    return cached.fill(workers=options.workers, is_main=world.is_main)


def describe_run(options: Options, dataset: RawDataset, devices: list[torch.device]) -> dict[str, Any]:
    """The entries of ``run.json``."""
    samples = {"samples": len(dataset), "list": dataset.fingerprint}
    return {"options": options.as_dict(), **describe_program(), **samples, "devices": devices}


def pretrain(options: Options, world: World) -> None:
    """Files -> raw batches -> views -> network -> loss -> weights."""
    devices = choose_devices(device=options.device, gpus=options.gpus, world=world)
    check_batch(options.b, replicas=max(len(devices), world.size))
    precision = Precision.choose(devices[0], amp=options.amp, verbose=world.is_main)
    if options.graph:
        check_graph(devices, precision.dtype, world.size)
    init_process_group(world, devices[0])
    output = Path(options.output)
    lock_output(output, world)

    lists = ListFolders.of_run(
        typed=options.lists, output=options.output, weight=None, resume=options.resume, is_main=world.is_main
    )
    dataset = open_samples(options, lists)
    make_probe = prepare_probe(options, lists, world, devices[0])
    if options.cache and isinstance(dataset, ImageFiles):
        dataset = fill_cache(options, dataset, world)
    loader = Loader(
        dataset, batch_size=options.b, workers=options.workers, seed=options.seed, rank=world.rank,
        world_size=world.size, pin_memory=devices[0].type == "cuda", max_bad=options.max_bad,
    )  # fmt: skip
    fixed = fixed_options(options) | {"the list of samples": dataset.fingerprint}
    run_state = RunState(output / "state", fixed=fixed, save_minutes=options.save_minutes, is_main=world.is_main)
    state = run_state.find(options.resume)

    dimension = make_dimension(options, devices[0], resumed=state is not None)
    model = build_model(options, dimension, world, resumed=state is not None)
    note_random_start(options, world, resumed=state is not None)
    module = parallelize(
        PretrainStep(model, precision, dimension.memory_format, LossWeights(*options.loss_weights)), devices, world
    )
    task = PretrainTask(
        module, dimension.build_views(), n_stages=len(model.stages), epochs=options.epochs, peak_lr=options.lr,
        warmup_epochs=options.warmup_epochs, seed=options.seed, rank=world.rank,
        probe=make_probe(dimension.weights_of(model), precision, dimension.memory_format),
    )  # fmt: skip
    optimizer = build_optimizer(
        options.optimizer, model.parameters(), lr=options.lr, momentum=options.momentum,
        weight_decay=options.weight_decay,
    )  # fmt: skip
    # Reads a record of every scan, for files that the first process alone writes.
    crops = describe_crops(dataset) if world.is_main else {}
    recorder = Recorder(output, about=describe_run(options, dataset, devices) | crops, active=world.is_main)
    pictures = RestorationPictures(
        model, partial(task.views, step=0), recorder, every=options.picture_every, epochs=options.epochs
    )
    curves = CurvePictures(recorder, every=options.picture_every, epochs=options.epochs)
    weights = WeightsWriter(output, options.as_dict() | crops, dimension.weights_of(model).state_dict, optimizer)
    Trainer(
        task, optimizer=optimizer, loader=loader, device=devices[0], precision=precision, recorder=recorder,
        run_state=run_state, world=world, epochs=options.epochs, seed=options.seed, log_every=options.log_every,
        after_epoch=[pictures, curves, weights] if world.is_main else [],
        graphed_steps=GraphedSteps(task, optimizer, devices[0]) if options.graph else None,
    ).fit(state)  # fmt: skip


def main() -> int:
    """Run the phase given by the options."""
    options = parse_options()
    world = read_world()
    try:
        if options.check:
            # Imported here, since it needs the packages of all phases.
            from checks.story import check_run

            return check_run(options, world, open_for_check) if world.is_main else 0
        if options.phase == "finetune":
            # Imported here, so that pre-training does not need the packages of fine-tuning.
            from downstream.finetune import finetune

            finetune(options, world)
        elif options.phase == "probe":
            from downstream.probe import probe

            probe(options, world)
        elif options.phase == "predict":
            from downstream.predict import predict_files

            predict_files(options, world)
        elif options.phase == "features":
            from downstream.features import write_features

            write_features(options, world)
        else:
            pretrain(options, world)
        if world.is_main and options.phase in (PRETASK, FINETUNE):
            write_model_card(Path(options.output))
    except Stopped as stopped:
        if world.is_main:
            print(f"main.py: {stopped}; resume with --resume auto", file=sys.stderr)
        return EXIT_STATUS
    except RuntimeError as error:
        if not is_peer_failure(error):
            raise
        raise UserError("another process of this run has ended; see its error message, unless it was killed") from None
    finally:
        unlock_output()
        destroy_process_group()
    return 0


if __name__ == "__main__":
    run_command(main)
