"""What prediction needs to know of a fine-tuned network, stored beside its weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from data.datasets.brats import BRATS_SUFFIXES
from data.datasets.cases import Region
from data.datasets.layout import Layout
from data.preprocess import Preprocessing, preprocessing_from, read_spec
from models.classification import build_classifier
from models.pretrained import load_weights
from models.segmentation import build_segmenter
from utils.checkpoints import RECORD, read_checkpoint
from utils.errors import UserError
from utils.options import CLASSIFICATION

RUN = "run.json"


class TunedNetwork(NamedTuple):
    """A fine-tuned network: what its outputs are, and how it sees images."""

    task: str
    """CLASSIFICATION or SEGMENTATION."""
    dataset: str
    """The data set that it was fine-tuned on, ``--n``."""
    outputs: tuple[str, ...]
    """K names of classes or regions."""
    reading: Preprocessing
    mask_values: tuple[int, ...] = ()
    """K values of the regions in masks that are written."""
    exclusive: bool = False
    """Whether a voxel belongs to at most one region."""
    channels: int = 1
    """Of the images, before grey is repeated."""
    suffixes: tuple[tuple[str, ...], ...] = ()
    """By channel, what the names of its files may end in, see :class:`data.datasets.layout.Layout`."""
    norm: str = "bn"
    skips: bool = True
    thresholds: Mapping[str, float] = {}
    """By class: the probability from which on it counts as found, where validation chose one."""

    @property
    def of_cubes(self) -> bool:
        """Whether it classifies cubes around points, and not whole images."""
        return self.task == CLASSIFICATION and self.dataset == "luna"

    def as_record(self) -> dict[str, Any]:
        """Return plain values, as a checkpoint and JSON store them."""
        values = self._asdict() | {
            "reading": self.reading.as_record(), "thresholds": dict(self.thresholds),
            "suffixes": [list(suffixes) for suffixes in self.suffixes],
        }  # fmt: skip
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_record(cls, stored: Mapping[str, Any], source: str | Path) -> "TunedNetwork":
        """Return the network of a record.

        Raises:
            UserError: the record lacks entries.
        """
        try:
            values = {name: stored[name] for name in cls._fields if name != "suffixes"}
            tuples: dict[str, Any] = {name: tuple(values[name]) for name in ("outputs", "mask_values")}
            # Earlier records lack it; then, of all data sets BraTS alone had several channels.
            given = stored.get("suffixes", BRATS_SUFFIXES if stored["channels"] > 1 else ())
            tuples["suffixes"] = tuple(map(tuple, given))
            return cls(**values | tuples | {"reading": preprocessing_from(stored["reading"])})
        except (KeyError, TypeError) as error:
            raise UserError(f"{source}: expected a whole record of a fine-tuned network, it lacks {error}") from None

    def build(self) -> Any:
        """Return the network with random weights of torch's global generator."""
        dim = self.reading.dim
        if self.task == CLASSIFICATION:
            return build_classifier(dim=dim, classes=len(self.outputs))
        return build_segmenter(
            dim=dim, regions=len(self.outputs), in_channels=3 if dim == 2 else self.channels, norm=self.norm,
            skips=self.skips,
        )  # fmt: skip

    def layout(self, cases: list[Any]) -> Layout:
        """Return cases to segment as a data set without a test split."""
        regions = tuple(Region(n, (v,), v) for n, v in zip(self.outputs, self.mask_values, strict=True))
        return Layout(cases, [], "", regions, read_spec(self.reading), self.exclusive, self.channels, self.norm)


def load_tuned(network: TunedNetwork, weights: str | Path) -> nn.Module:
    """Return the network with all of its weights.

    Raises:
        UserError: the file cannot be read, or holds another network.
    """
    model = network.build()
    match = load_weights(model, weights)
    if match.missing or match.unused:
        raise UserError(f"{weights}: expected a network fine-tuned for {network.task} as {network.outputs}: {match}")
    return model


def read_tuned(weights: str | Path) -> TunedNetwork | None:
    """Return the record of fine-tuned weights; None for weights without one."""
    stored = read_checkpoint(weights).get(RECORD)
    return None if stored is None else TunedNetwork.from_record(stored, weights)
