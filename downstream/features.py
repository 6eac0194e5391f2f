"""Pooled features of any images or volumes, by an encoder of any weights, and a map of them."""

import os
import sys
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from data.catalog.file_index import FileIndex
from data.catalog.label_table import LABELS, read_own_table
from data.catalog.names import NameList
from data.preprocess import Preprocessing, preprocessing_of
from data.unlabelled import PreparedFiles
from downstream.files_run import FilesRun
from downstream.tuned import read_tuned
from evaluation.feature_map import Colouring, draw_map
from evaluation.features import PooledFeatures, save_features
from models.encoders import PRETRAINED_CHANNELS
from models.pretrained import load_encoder_with_match
from utils.errors import UserError
from utils.options import Options
from utils.world import World

FEATURES, MAP = "features.npz", "map.png"


def write_features(options: Options, world: World) -> None:
    """Files -> encoder -> average over each file -> ``features.npz`` and ``map.png``."""
    reading, norm = reading_of(options)
    settings = {"reading": reading.as_record(), "norm": norm}
    run = FilesRun.start(options, world, dim=options.d, settings=settings)
    encoder = load_extractor(options, norm, verbose=world.is_main)
    if world.is_main:
        print(f"{len(run.files.names)} files: {reading}", file=sys.stderr)
    dataset, module = PreparedFiles(run.files, reading), run.place(PooledFeatures(encoder), options.d)
    at_once = run.batch_size if options.d == 2 and not reading.whole else 1
    run.log_means(dataset, module, at_once=at_once, finish=Tensor.float)
    rows = run.finish()
    if world.is_main:
        output = Path(options.output)
        names, features = save_features(output / FEATURES, rows)
        colouring = _colouring(Path(options.data), names, options.labels)
        draw_map(output / MAP, features, colouring)
        print(f"{len(names)} files, {features.shape[1]} features: {output / FEATURES}", file=sys.stderr)


def reading_of(options: Options) -> tuple[Preprocessing, str]:
    """Return how the weights saw images, with what was typed in its place, and the normalisation of their network."""
    reading = preprocessing_of(str(options.weight), options.d)
    window = options.crop or ((options.global_size,) * 2 if options.d == 2 and options.global_size != 224 else None)
    typed: dict[str, Any] = {
        "window": window, "intensity": options.intensity, "spacing": options.spacing,
        "image_size": options.image_size or None, "invert": options.invert or None,
    }  # fmt: skip
    tuned = read_tuned(str(options.weight))
    norm = options.norm or (tuned.norm if tuned else "bn")
    return reading._replace(**{name: value for name, value in typed.items() if value is not None}), norm


def load_extractor(options: Options, norm: str, *, verbose: bool) -> nn.Module:
    encoder, match = load_encoder_with_match(str(options.weight), options.d, norm=norm)
    if verbose:
        print(f"--weight {options.weight}: {match}", file=sys.stderr)
    channels, expected = next(encoder.parameters()).shape[1], PRETRAINED_CHANNELS[options.d]
    if channels != expected:
        raise UserError(f"--weight {options.weight}: expected an encoder of {expected} channels, it has {channels}")
    return encoder


def _colouring(root: Path, names: list[str], columns: tuple[str, ...] | None) -> Colouring | None:
    """Return a column of labels by name: the first of ``--labels``, or of ``labels.csv``; None where there is none."""
    path = root / LABELS
    if not path.exists():
        if columns:
            raise UserError(f"--labels: expected the column {columns[0]} of {path}, there is no such file")
        return None
    index = FileIndex([root], [NameList.of(sorted(map(os.fsencode, names)))])
    table = read_own_table(path, index, labels=columns)
    if not table.classes:
        return None
    return Colouring(table.classes[0], [table.labels.get(name, (float("nan"),))[0] for name in names])
