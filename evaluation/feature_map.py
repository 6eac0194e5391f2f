"""A map of features: the two principal components that vary most, a point for each file."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.atomic import whole_file
from utils.optional import import_for_picture

LABELLED = ((1.0, "tab:red", "1"), (0.0, "tab:blue", "0"))


class Colouring(NamedTuple):
    """What colours the points."""

    name: str
    values: Sequence[float]
    """N of 0 and 1; NaN where unknown."""


def principal_components(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Project features, N F, onto their first two principal components.

    Returns:
        N 2, and the share of the variance of each; both are 0 for components that do not vary.
    """
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    left, scales, _ = np.linalg.svd(centred, full_matrices=False)
    points, shares = np.zeros((len(features), 2)), np.zeros(2)
    total, count = (scales**2).sum(), min(2, len(scales))
    if total > 0:
        points[:, :count], shares[:count] = (left * scales)[:, :count], scales[:count] ** 2 / total
    return points, shares


def of_length_one(features: np.ndarray) -> np.ndarray:
    """Scale features, N F, to length 1, as nearest neighbours compare them; those of length 0 stay.

    Unusual images can have features twenty times as long as others, which would be all that a map shows.
    """
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(lengths > 0, lengths, 1)


def draw_map(path: Path, features: np.ndarray, colouring: Colouring | None) -> None:
    """Draw the map of features, N F; without matplotlib, print a line on stderr instead."""
    figures = import_for_picture("matplotlib.figure", path.name)
    if figures is None:
        return
    points, shares = principal_components(of_length_one(features))
    figure = figures.Figure(figsize=(6.5, 6), layout="constrained")
    axes = figure.add_subplot(
        xlabel=f"first component, {shares[0]:.0%} of the variance", ylabel=f"second component, {shares[1]:.0%}",
        title=f"features of {len(points)} files",
    )  # fmt: skip
    values = np.array(colouring.values if colouring else [np.nan] * len(points))
    unknown = np.isnan(values)
    groups = [(unknown, "0.6", "unlabelled" if colouring else None)]
    groups += [(values == value, colour, label) for value, colour, label in LABELLED]
    for group, colour, label in groups:
        if group.any():
            text = f"{label} ({group.sum()})" if label else None
            axes.scatter(*points[group].T, s=14, color=colour, alpha=0.7, linewidths=0, label=text)
    if colouring:
        axes.legend(title=colouring.name)
    with whole_file(path) as file:
        figure.savefig(file, format="png", dpi=120)
