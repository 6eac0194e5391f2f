"""Linear readouts of an encoder that is left as it is: what its features hold already."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.transfer.networks import CLASSIFICATION, Network
from benchmarks.transfer.phantoms import Phantoms
from benchmarks.transfer.scores import auroc, best_thresholds, overall, score
from utils.optional import import_optional

BATCH = 64
# Regression on every fourth pixel of each axis: the grid of the encoder's second stage.
STRIDE = 4
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


class Seen(NamedTuple):
    """A part with its features: these are the same for any number of labels."""

    part: Phantoms
    features: Tensor
    """Of the task: N F, or N F S/4 S/4 (1 MB an image at 64 pixels)."""


def see(network: Network, part: Phantoms) -> Seen:
    """A part with the features that the network's task reads."""
    network.eval()
    if network.task == CLASSIFICATION:
        return Seen(part, pooled_features(network, part.images))
    return Seen(part, torch.cat([pixel_features(network, batch) for batch in part.images.split(BATCH)]))


def read_out(network: Network, train: Phantoms, valid: Seen, test: Seen) -> dict[str, float]:
    """Fit a linear readout; choices by the validation part, numbers of the test part."""
    network.eval()
    return (_classify if network.task == CLASSIFICATION else _segment)(network, train, valid, test)


@torch.no_grad()
def pooled_features(network: Network, images: Tensor) -> Tensor:
    """uint8 N 1 S S to the pooled features of the last stage, N F."""
    return torch.cat([network.features(batch)[-1].mean(dim=(2, 3)) for batch in images.split(BATCH)])


@torch.no_grad()
def pixel_features(network: Network, images: Tensor) -> Tensor:
    """uint8 N 1 S S to the features of all stages at every fourth pixel, N F S/4 S/4."""
    grid = images.shape[-1] // STRIDE
    stages = network.features(images)
    shrunk = [F.adaptive_avg_pool2d(x, grid) for x in stages if x.shape[-1] >= grid]
    grown = [F.interpolate(x, size=grid, mode="bilinear") for x in stages if x.shape[-1] < grid]
    return torch.cat([*shrunk, *grown], dim=1)


def _classify(network: Network, train: Phantoms, valid: Seen, test: Seen) -> dict[str, float]:
    """Logistic regression on pooled features; its regularisation is chosen on the validation part."""
    linear = import_optional("sklearn.linear_model", "benchmarks.transfer")
    features = [f.double().cpu() for f in (pooled_features(network, train.images), valid.features, test.features)]
    mean, deviation = features[0].mean(dim=0), features[0].std(dim=0) + 1e-6
    x = [((part - mean) / deviation).numpy() for part in features]
    y = train.nodule[:, 0].cpu().numpy()
    best, scores = -1.0, torch.zeros(0)
    for strength in STRENGTHS:
        model = linear.LogisticRegression(C=strength, max_iter=500).fit(x[0], y)
        number = auroc(torch.from_numpy(model.decision_function(x[1])), valid.part.nodule[:, 0])
        if number > best:
            best, scores = number, torch.from_numpy(model.decision_function(x[2]))
    return {"nodule AUROC": auroc(scores, test.part.nodule[:, 0])}


def _segment(network: Network, train: Phantoms, valid: Seen, test: Seen) -> dict[str, float]:
    """Ridge regression from each pixel's features to its regions; strength and thresholds by the validation part."""
    mean, scale, gram, moments, intercept = _sums(network, train)
    best, chosen, levels = -1.0, torch.zeros(0), torch.zeros(0)
    on_valid, size = _standard(valid.features, mean, scale), valid.part.images.shape[-1]
    for strength in STRENGTHS:
        weights = torch.linalg.solve(gram + strength * torch.eye(len(gram), device=gram.device), moments)
        outputs = _regions(on_valid, weights, intercept, size)
        thresholds = best_thresholds(outputs, valid.part)
        number = overall(score(network.task, outputs, valid.part, thresholds))
        if number > best:
            best, chosen, levels = number, weights, thresholds
    batches = test.features.split(BATCH)
    found = [_regions(_standard(features, mean, scale), chosen, intercept, size) for features in batches]
    return score(network.task, torch.cat(found), test.part, levels)


def _standard(features: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Standardised pixel features, N F g g."""
    return (features - mean[:, None, None]) / scale[:, None, None]


def _regions(features: Tensor, weights: Tensor, intercept: Tensor, size: int) -> Tensor:
    """N F g g to regions at input size, N 2 S S."""
    coarse = torch.einsum("nfhw,fk->nkhw", features, weights) + intercept[:, None, None]
    return F.interpolate(coarse, size=size, mode="bilinear")


def _sums(network: Network, train: Phantoms) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(mean F, scale F, Gram matrix F F, moments F K, intercept K) of standardised features, means over pixels."""
    shrink = [F.avg_pool2d(masks, STRIDE) for masks in train.masks.split(BATCH)]
    total: Tensor | float = 0.0
    squares: Tensor | float = 0.0
    cross: Tensor | float = 0.0
    answer: Tensor | float = 0.0
    pixels = 0
    for images, regions in zip(train.images.split(BATCH), shrink, strict=True):
        x = pixel_features(network, images).movedim(1, -1).flatten(0, 2)
        y = regions.movedim(1, -1).flatten(0, 2)
        total, squares, cross = total + x.sum(dim=0), squares + x.T @ x, cross + x.T @ y
        answer, pixels = answer + y.sum(dim=0), pixels + len(x)
    assert isinstance(total, Tensor) and isinstance(squares, Tensor) and isinstance(cross, Tensor)
    mean, intercept = total / pixels, torch.as_tensor(answer / pixels)
    covariance = squares / pixels - torch.outer(mean, mean)
    scale = covariance.diagonal().clamp(min=0).sqrt() + 1e-4
    moments = (cross / pixels - torch.outer(mean, intercept)) / scale[:, None]
    return mean, scale, covariance / torch.outer(scale, scale), moments, intercept
