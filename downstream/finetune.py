"""Fine-tuning, from options to results."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from data.catalog.xrays import XRAYS
from data.loader import Loader
from downstream.classification import candidate_recipe, xray_recipe
from downstream.folder import folder_recipe
from downstream.segmentation import segmentation_recipe
from downstream.tasks import BEST, Recipe, RunContext, describe_run, load_weight, run_lists
from engine.finetune import FinetuneTask, ForwardStep
from engine.memory_format import memory_format
from engine.parallel import check_batch, parallelize
from engine.precision import Precision
from engine.recorder import Recorder
from engine.run_state import RunState
from engine.trainer import Trainer
from engine.weights import WeightsWriter
from evaluation.results import RESULTS, write_results
from models.pretrained import Match
from utils.devices import choose_devices
from utils.distributed import gather, init_process_group
from utils.options import SEGMENTED, Options, fixed_options
from utils.output_lock import lock_output
from utils.seeding import seed_of
from utils.world import World

RECIPES: dict[str, Callable[[RunContext], Recipe]] = {
    **dict.fromkeys(XRAYS, xray_recipe),
    "luna": candidate_recipe,
    **dict.fromkeys(SEGMENTED, segmentation_recipe),
    "folder": folder_recipe,
}


def build_model(options: Options, recipe: Recipe, world: World) -> tuple[Any, Match | None]:
    """Build the network, equal on every process, and return it with what matched of ``--weight``, None from scratch."""
    torch.manual_seed(seed_of(options.seed, "weights"))
    model = recipe.build_model()
    match = load_weight(model.encoder, options, world)
    if options.compile:
        model.compile()
    return model, match


def finetune(options: Options, world: World) -> None:
    """Labelled images -> augmented inputs -> network -> best epoch on validation -> evaluation on the test split."""
    devices = choose_devices(device=options.device, gpus=options.gpus, world=world)
    check_batch(options.b, replicas=max(len(devices), world.size))
    init_process_group(world, devices[0])
    output = Path(options.output)
    lock_output(output, world)

    recipe = RECIPES[options.n](RunContext(options, world, devices[0], run_lists(options, world)))
    splits = recipe.splits
    if world.is_main:
        print(
            f"--ratio {options.ratio:g}: {len(splits.train)} samples to train on, {len(splits.valid)} to choose the "
            f"epoch, {len(splits.test)} to test ({splits.test_source})", file=sys.stderr
        )  # fmt: skip
    loader = Loader(
        splits.train, batch_size=options.b, workers=options.workers, seed=options.seed, rank=world.rank,
        world_size=world.size, pin_memory=devices[0].type == "cuda", max_bad=options.max_bad,
    )  # fmt: skip
    fingerprints = {f"the {name} split": getattr(splits, name).fingerprint for name in ("train", "valid", "test")}
    fixed = fixed_options(options) | fingerprints
    run_state = RunState(output / "state", fixed=fixed, save_minutes=options.save_minutes, is_main=world.is_main)
    state = run_state.find(options.resume)

    tensor_format = memory_format(options.d, devices[0])
    model, match = build_model(options, recipe, world)
    model.to(memory_format=tensor_format)
    precision = Precision.choose(devices[0], amp=options.amp, verbose=world.is_main)
    module = parallelize(ForwardStep(model, precision, tensor_format), devices, world, uses_all=True)
    task = FinetuneTask(
        module, make_inputs=recipe.make_inputs, loss=recipe.loss, validate=recipe.validate, lr=options.lr,
        seed=options.seed, rank=world.rank, best_file=output / BEST if world.is_main else None,
        record=recipe.network.as_record(),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr, fused=True)
    recorder = Recorder(output, about=describe_run(options, splits, match, devices), active=world.is_main)
    weights = WeightsWriter(output, options.as_dict(), model.state_dict, optimizer)
    Trainer(
        task, optimizer=optimizer, loader=loader, device=devices[0], precision=precision, recorder=recorder,
        run_state=run_state, world=world, epochs=options.epochs, seed=options.seed, log_every=options.log_every,
        after_epoch=[weights] if world.is_main else [],
    ).fit(state)  # fmt: skip
    task.use_best()
    if not options.test:
        return
    # The first process decides for all, since the folder may not exist on other machines.
    if gather((output / RESULTS).exists())[0]:
        if world.is_main:
            print(f"{output / RESULTS} exists already: the test split is not evaluated again", file=sys.stderr)
        return
    found = recipe.test(task.module)
    if world.is_main:
        write_results(output, {
            "data_set": options.n,
            "weights": options.weight,
            "best_epoch": task.best_epoch,
            "valid_loss": task.best_loss,
            "test_split": splits.test_source,
            **found,
        })  # fmt: skip
