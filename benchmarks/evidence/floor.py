"""The floor: both probes on principal components of pixels, which an encoder worth its name must beat."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.catalog.list_folders import ListFolders
from data.evaluation_loader import EvaluationLoader
from downstream.probe import PROBED
from evaluation.predictions import Predictions
from evaluation.probes_report import claim_output, run_probes
from evaluation.results import write_results
from utils.optional import import_optional
from utils.options import Options

SIDE = {2: 64, 3: 16}
"""Pixels or voxels along each side."""
COMPONENTS = 50


class SmallPixels(nn.Module):
    """Inputs B C *S, shrunk to a few pixels a side, as features B F of the first channel."""

    def forward(self, x: Tensor) -> Tensor:
        shrink = F.adaptive_avg_pool2d if x.ndim == 4 else F.adaptive_avg_pool3d
        return shrink(x[:, :1], SIDE[x.ndim - 2]).flatten(1)


def probe_pixels(options: Options, *, whole: Path) -> None:
    """Probe principal components of all training images, labelled or not, with the labels of one draw.

    Args:
        options: of a probe; ``lists`` is the folder of the draw.
        whole: the folder of the lists of the whole data set.
    """
    output = Path(options.output)
    claim_output(output, is_main=True)
    data = PROBED[options.n](options, ListFolders.at(options.lists or whole))
    everything = PROBED[options.n](options, ListFolders.at(whole)).train
    splits = {"train": data.train, "valid": data.valid, "test": data.test}
    pixels = {
        title: data.evaluator.predict(
            SmallPixels(),
            EvaluationLoader(
                split, batch_size=data.evaluator.at_once or options.b, workers=options.workers, max_bad=options.max_bad
            ),
            torch.device("cpu"),
        )
        for title, split in (splits | {"all": everything}).items()
    }  # fmt: skip
    decomposition = import_optional("sklearn.decomposition", "the arm floor")
    count = min(COMPONENTS, len(pixels["all"].indices), pixels["all"].values.shape[1])
    model = decomposition.PCA(count, random_state=0).fit(pixels["all"].values)
    features = {title: _projected(model, pixels[title]) for title in splits}
    found = run_probes(
        features, data.classes, {title: split.patients for title, split in splits.items()},
        neighbours=options.probe_neighbours, name=data.test.name, seed=options.seed, output=output,
    )  # fmt: skip
    write_results(output, {"data_set": options.n, "weights": None, "test_split": data.test_source, **found})


def _projected(model: object, pixels: Predictions) -> Predictions:
    return pixels._replace(values=model.transform(pixels.values).astype(np.float32))  # type: ignore[attr-defined]
