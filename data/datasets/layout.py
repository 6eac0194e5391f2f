"""What lies in the folder of a segmentation data set."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data.datasets.cases import Case, ReadSpec, Region
from utils.errors import UserError


class Layout(NamedTuple):
    """What lies in the folder of a data set."""

    cases: list[Case]
    """By name."""
    test: list[str]
    """Names of those that the data set itself sets aside for testing; none where it does not."""
    test_source: str
    regions: tuple[Region, ...]
    reading: ReadSpec
    exclusive: bool
    """Whether a voxel is of one region at most."""
    channels: int = 1
    norm: str = "bn"
    """The network's normalisation, see :func:`models.segmentation.build_segmenter`."""


def require_complete(root: Path, lacking: Sequence[str], of: int, what: str) -> None:
    if lacking:
        raise UserError(f"--data: {len(lacking)} of {of} {what} in {root} lack files ({lacking[0]})")
