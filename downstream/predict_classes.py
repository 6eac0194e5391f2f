"""Probabilities of a fine-tuned classifier: of images, of volumes, or of points in volumes."""

import sys
from pathlib import Path

from torch import Tensor

from data.points import COORDINATES, PointCubes, find_points
from data.unlabelled import PreparedFiles
from downstream.files_run import FilesRun
from downstream.tuned import TunedNetwork, load_tuned
from evaluation.prediction_log import write_table
from evaluation.results import PREDICTIONS
from utils.options import Options
from utils.world import World


def predict_classes(options: Options, world: World, network: TunedNetwork) -> None:
    """Files, or points in them -> fine-tuned classifier -> ``predictions.csv``."""
    if network.of_cubes:
        _predict_points(options, world, network)
    else:
        _predict_files(options, world, network)


def _predict_files(options: Options, world: World, network: TunedNetwork) -> None:
    reading = network.reading
    run = FilesRun.start(options, world, dim=reading.dim, settings={"network": network.as_record()})
    _classify(run, network, PreparedFiles(run.files, reading), at_once=run.batch_size if reading.dim == 2 else 1)
    rows = run.finish()
    if world.is_main:
        path = Path(options.output) / PREDICTIONS
        thresholds = _thresholds(network)
        table = ((name, [*numbers, *thresholds.values()]) for name, numbers in rows.items())
        write_table(path, [*network.outputs, *thresholds], table)
        print(f"{len(rows)} files: {path}", file=sys.stderr)


def _predict_points(options: Options, world: World, network: TunedNetwork) -> None:
    found = find_points(options.data, verbose=world.is_main)
    run = FilesRun.start(options, world, dim=3, settings={"network": network.as_record()}, files=found.files)
    _classify(run, network, PointCubes(found, network.reading.window), at_once=run.batch_size)
    rows = run.finish()
    if world.is_main:
        path = Path(options.output) / PREDICTIONS
        thresholds = _thresholds(network)
        points = zip(found.files.names, found.scans, found.points.tolist(), strict=True)
        table = (
            (scan, [*point, *rows[name], *thresholds.values()]) for name, scan, point in points if name in rows
        )  # fmt: skip
        write_table(path, [*COORDINATES, *network.outputs, *thresholds], table)
        print(f"{len(rows)} points: {path}", file=sys.stderr)


def _classify(run: FilesRun, network: TunedNetwork, dataset: PreparedFiles | PointCubes, *, at_once: int) -> None:
    """Note the probabilities of what is left to do."""
    if run.world.is_main:
        what = "points" if network.of_cubes else "files"
        print(f"{len(run.files.names)} {what}, {network.task}: {network.reading}", file=sys.stderr)
    module = run.place(load_tuned(network, str(run.options.weight)), network.reading.dim)
    run.log_means(dataset, module, at_once=at_once, finish=Tensor.sigmoid)


def _thresholds(network: TunedNetwork) -> dict[str, float | None]:
    """Return the thresholds by column, None for a class without one; none where validation chose none at all."""
    if not network.thresholds:
        return {}
    return {f"threshold_{name}": network.thresholds.get(name) for name in network.outputs}
