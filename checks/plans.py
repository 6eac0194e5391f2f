"""What a run of each phase would read and show its network, opened as the run opens it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from checks.shown import VIEWS, ShowBatch, show_channels, show_labels, show_masks, show_views, show_windows
from data.catalog.any_files import find_files
from data.catalog.list_folders import ListFolders
from data.catalog.xrays import XRAYS
from data.datasets.candidates import CandidateCubes
from data.datasets.cases import Case
from data.datasets.classification import LabelledFiles
from data.datasets.images import ImageFiles
from data.datasets.segmentation import WholeCases
from data.inputs import as_input, eval_cubes, eval_inputs
from data.loader import Loader
from data.points import PointCubes, find_points
from data.unlabelled import PreparedFiles
from downstream.features import load_extractor, reading_of
from downstream.finetune import RECIPES, build_model
from downstream.old_weights import tuned_of
from downstream.predict import find_channels
from downstream.probe import PROBED, build_frozen
from downstream.tasks import RunContext
from downstream.tuned import load_tuned
from engine.parallel import check_batch
from evaluation.probes import require_probes
from evaluation.segmentation import require_segmentation
from utils.devices import choose_devices
from utils.errors import UserError
from utils.notes import kept_notes, note
from utils.options import CLASSIFICATION, FEATURES, FINETUNE, PREDICT, PROBE, Options
from utils.world import World

CPU = torch.device("cpu")


class Plan(NamedTuple):
    """What a run reads, and how its samples are shown."""

    splits: dict[str, Any]
    """Data sets by title."""
    shown: Any
    """The data set of which samples are shown."""
    show: ShowBatch
    caption: str
    classes: tuple[str, ...] = ()
    """The names of the labels, where there are any."""
    patients: Sequence[str] | None = None
    """Of the images of a pre-training; other data sets have their own."""
    refused: tuple[str, ...] = ()
    """A line for each folder or DICOM series that cannot be read as it is."""


Open = Callable[[Options, ListFolders], tuple[Any, Callable[..., Any]]]
"""Opens the samples of a pre-training, and what makes their views."""


def make_plan(options: Options, lists: ListFolders, world: World, open_pretraining: Open) -> Plan:
    """Open what a run would read.

    Raises:
        UserError: as the run.
    """
    plans: dict[str, Callable[[Options, ListFolders, World], Plan]] = {
        FINETUNE: _finetune, PROBE: _probe, PREDICT: _predict, FEATURES: _features,
    }  # fmt: skip
    if options.phase in plans:
        return plans[options.phase](options, lists, world)
    _check_batch(options, world)
    dataset, make_views = open_pretraining(options, lists)
    _check_loader(dataset, options, world)
    patients = _patients(options, dataset) if isinstance(dataset, ImageFiles) else None
    return Plan({"pre-training": dataset}, dataset, show_views(make_views), VIEWS, patients=patients)


def _patients(options: Options, images: ImageFiles) -> list[str] | None:
    """Return the patient of each image; None where they are not known, which does not matter to a pre-training."""
    root, dataset = Path(options.data), XRAYS[options.n]
    if dataset.read_patients is None:
        return None
    try:
        with kept_notes():  # they were reported when the samples were opened
            files = dataset.index_images(root)
        return dataset.read_patients(root, files, list(images.names))
    except UserError as error:
        note(f"patients are not counted: {error}")
        return None


def _check_batch(options: Options, world: World) -> None:
    devices = choose_devices(device=options.device, gpus=options.gpus, world=world)
    check_batch(options.b, replicas=max(len(devices), world.size))


def _check_loader(dataset: Any, options: Options, world: World) -> None:
    """Raise the errors of too small data sets and batches."""
    Loader(dataset, batch_size=options.b, workers=0, seed=options.seed, world_size=world.size)


def _finetune(options: Options, lists: ListFolders, world: World) -> Plan:
    _check_batch(options, world)
    recipe = RECIPES[options.n](RunContext(options, world, CPU, lists))
    splits, network = recipe.splits, recipe.network
    _check_loader(splits.train, options, world)
    build_model(options, recipe, world)
    if network.task == CLASSIFICATION:
        show, caption = show_labels(recipe.make_inputs, network.outputs), "inputs of training, and what is labelled 1"
    else:
        show, caption = show_masks(recipe.make_inputs), "inputs of training, and borders of the masks on the first one"
    sets = {"train": splits.train, "valid": splits.valid, "test": splits.test}
    return Plan(sets, splits.train, show, caption, network.outputs)


def _probe(options: Options, lists: ListFolders, world: World) -> Plan:
    require_probes("--phase probe")
    data = PROBED[options.n](options, lists)
    build_frozen(options, world)
    show: ShowBatch = show_windows
    for kind, make_inputs in ((LabelledFiles, eval_inputs), (CandidateCubes, eval_cubes)):
        if isinstance(data.train, kind):
            show = show_labels(_without_draws(make_inputs), data.classes)
    sets = {"train": data.train, "valid": data.valid, "test": data.test}
    return Plan(sets, data.train, show, "inputs of the probe", tuple(data.classes))


def _without_draws(make_inputs: Callable[[Any], Any]) -> Callable[[Any, torch.Generator], Any]:
    return lambda batch, generator: make_inputs(batch)


def _predict(options: Options, lists: ListFolders, world: World) -> Plan:
    network = tuned_of(options)
    reading = network.reading
    caption = f"inputs: {reading}"
    dataset: PreparedFiles | PointCubes | WholeCases
    show: ShowBatch = show_windows
    if network.task == CLASSIFICATION and network.of_cubes:
        points = find_points(options.data, verbose=True)
        dataset, refused = PointCubes(points, reading.window), points.files.refused
    elif network.task == CLASSIFICATION:
        files = find_files(options.data, reading.dim, verbose=True)
        dataset, refused = PreparedFiles(files, reading), files.refused
    else:
        require_segmentation()
        files, channels = find_channels(options.data, network, verbose=True)
        cases = [Case(name, "", some, None) for name, some in zip(files.names, channels, strict=True)]
        dataset, refused = WholeCases(cases, network.layout(cases)), files.refused
        show, caption = show_channels(as_input(reading.dim)), f"whole images, predicted by windows: {reading}"
    load_tuned(network, str(options.weight))
    return Plan({"files": dataset}, dataset, show, caption, refused=tuple(refused))


def _features(options: Options, lists: ListFolders, world: World) -> Plan:
    reading, norm = reading_of(options)
    files = find_files(options.data, options.d, verbose=True)
    load_extractor(options, norm, verbose=True)
    dataset = PreparedFiles(files, reading)
    return Plan({"files": dataset}, dataset, show_windows, f"inputs: {reading}", refused=tuple(files.refused))
