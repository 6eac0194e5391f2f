"""Predictions of a fine-tuned network for any images or volumes: probabilities, or masks and volumes."""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from data.catalog.any_files import FoundFiles, file_names, find_files
from data.catalog.channel_files import find_cases, without_suffix
from data.datasets.cases import Case
from data.datasets.segmentation import WholeCases
from data.inputs import as_input
from data.mask_files import regions_to_mask, save_mask
from data.readers.volumes import Source
from downstream.files_run import FilesRun
from downstream.old_weights import tuned_of
from downstream.predict_classes import predict_classes
from downstream.tuned import TunedNetwork, load_tuned
from engine.finetune import ForwardStep
from evaluation.mask_pictures import save_borders
from evaluation.prediction_log import write_table
from evaluation.results import PREDICTIONS
from evaluation.segmentation import Inference, require_segmentation, segment_image
from evaluation.segmentation_report import slice_of
from utils.options import CLASSIFICATION, Options
from utils.records import WholeCase
from utils.world import World

MASKS, OVERLAYS = "masks", "overlays"
ML = 1000  # mm³


def predict_files(options: Options, world: World) -> None:
    """Predict by the network of ``--weight``, whichever its task is."""
    network = tuned_of(options)
    if network.task == CLASSIFICATION:
        predict_classes(options, world, network)
    else:
        predict_masks(options, world, network)


def predict_masks(options: Options, world: World, network: TunedNetwork) -> None:
    """Files -> segmentation -> ``predictions.csv`` with the size of each region, masks and pictures."""
    require_segmentation()
    dim = network.reading.dim
    files, channels = find_channels(options.data, network, verbose=world.is_main)
    run = FilesRun.start(options, world, dim=dim, settings={"network": network.as_record()}, files=files)
    if world.is_main:
        print(f"{len(run.files.names)} files, {network.task}: {network.reading}", file=sys.stderr)
    _segment(run, network, run.place(load_tuned(network, str(options.weight)), dim), channels)
    rows = run.finish()
    if world.is_main:
        path = Path(options.output) / PREDICTIONS
        columns = [f"{'ml' if dim == 3 else 'pixels'}_{name}" for name in network.outputs]
        write_table(path, columns, ((name, numbers.tolist()) for name, numbers in rows.items()))
        print(f"{len(rows)} files: {path}", file=sys.stderr)


def find_channels(
    root: str, network: TunedNetwork, *, verbose: bool
) -> tuple[FoundFiles, Sequence[tuple[Source, ...]]]:  # fmt: skip
    """Find all files or, for a network of several channels, all cases of several files; and the channels of each."""
    if network.channels == 1:
        files = find_files(root, network.reading.dim, verbose=verbose)
        names = [without_suffix(name, network.suffixes) for name in files.names]
        return files._replace(names=names), [(source,) for source in files.sources]
    cases = find_cases(root, network.suffixes, verbose=verbose)
    return FoundFiles(cases.names, [first for first, *_ in cases.channels], cases.refused), cases.channels


@torch.no_grad()
def _segment(
    run: FilesRun, network: TunedNetwork, module: ForwardStep, channels: Sequence[tuple[Source, ...]]
) -> None:  # fmt: skip
    """Write mask and picture of each image, and note the volume of each region in ml, in 2D its area in pixels."""
    pairs = zip(file_names(run.files.names), channels, strict=True)
    layout = network.layout([Case(name, "", sources, None) for name, sources in pairs])
    inference = Inference(network.reading.window, as_input(network.reading.dim), network.exclusive, run.device)
    batches = run.batches(WholeCases(layout.cases, layout), 1)
    output = Path(run.options.output)
    for (index,), case in batches:
        name, chosen = run.files.names[index], segment_image(module, case, inference)
        if chosen is None:
            run.note_not_finite([name])
            continue
        save_mask(output / MASKS, layout.cases[index], regions_to_mask(chosen.numpy(), layout.regions))
        image, _, borders = slice_of(case, chosen)
        save_borders(output / OVERLAYS / f"{layout.cases[index].name}.png", image, list(borders))
        run.log.add({name: _sizes(case, chosen)})
    run.broken.update(batches.bad)


def _sizes(case: WholeCase, chosen: torch.Tensor) -> Sequence[float]:
    """Return the volume of each region in ml; in 2D its area in pixels."""
    voxels = chosen.flatten(1).sum(dim=1).double()
    return (voxels * case.spacing.prod() / ML if chosen.ndim == 4 else voxels).tolist()
