"""The records that pass between data, models, losses and the training loop.

They are NamedTuples because collation, pinning, DataParallel's scatter and gather and DistributedDataParallel all
accept those. One alphabet of shapes throughout the project: B batch, C channel, ``*S`` the space of a global view
(H W or X Y Z), ``*s`` the space of a local view, V local views, F feature.
"""

from typing import NamedTuple

from torch import Tensor


class RawImages(NamedTuple):
    """What the 2D loader yields: whole grey images, before any random operation."""

    pixels: Tensor
    """uint8, B 1 H W; an image smaller than H W lies in the upper left corner, the rest is 0."""
    sizes: Tensor
    """int64, B 2: the height and width of each image."""


class RawCrops(NamedTuple):
    """What the 3D loader yields: the crop pairs and local crops that ``luna_preprocess.py`` wrote, scaled to 0..1."""

    pair: Tensor
    """float32, B 2 X Y Z."""
    local: Tensor
    """float32, B V x y z."""


class LabelledImages(NamedTuple):
    """What the loader of a classification yields: whole grey images as in :class:`RawImages`, and their labels."""

    pixels: Tensor
    """uint8, B 1 H W."""
    sizes: Tensor
    """int64, B 2: the height and width of each image."""
    labels: Tensor
    """float32, B K: 0 or 1, NaN where nobody knows."""


class LabelledCubes(NamedTuple):
    """What the loader of a classification in 3D yields: cubes cut out of scans, and their labels."""

    cubes: Tensor
    """float32, B 1 X Y Z, scaled to 0..1."""
    labels: Tensor
    """float32, B K: 0 or 1."""


class LabelledCrops(NamedTuple):
    """What the loader of a segmentation yields: crops of images, and what is which region in them."""

    images: Tensor
    """float32, B C *S, scaled to 0..1."""
    masks: Tensor
    """uint8, B K *S: 1 where a voxel is of region k; regions may overlap."""


class WholeCase(NamedTuple):
    """A whole image to be segmented, and the truth on the grid of its own file, *N."""

    image: Tensor
    """float32, C *S, scaled to 0..1, on the grid that the network sees."""
    mask: Tensor
    """uint8, K *S: the truth on that grid."""
    truth: Tensor
    """uint8, K *N: the truth as it came."""
    offset: Tensor
    """float64, one an axis: where on the axis of *S the first voxel of *N lies, in voxels of *S."""
    step: Tensor
    """float64, one an axis: how far its voxels are apart, in voxels of *S."""
    spacing: Tensor
    """float64, one an axis: how far its voxels are apart, in mm; in pixels where a file knows no mm."""


class Views(NamedTuple):
    """One batch as the network sees it. Every field splits along B, over GPUs too."""

    global1: Tensor
    """B C *S, the input of the first global view."""
    global2: Tensor
    """B C *S, the input of the second global view."""
    target: Tensor
    """B C *S, what the restoration of the first global view is held against."""
    local: Tensor
    """B V C *s, the inputs of the local views."""


class Output(NamedTuple):
    """What the network makes of one batch of views."""

    restoration: Tensor | None
    """B C *S, or None where it was not asked for."""
    embeddings: list[tuple[Tensor, Tensor]]
    """Per decoder stage, deepest first: (projection, prediction), each B F."""
    intermediate: list[Tensor]
    """Per decoder stage, deepest first: the stage's restoration at input size, B C *S. Empty where not asked for."""


class LossTerms(NamedTuple):
    """The five numbers of a step; ``total`` is the plain sum of the other four."""

    total: Tensor
    restoration: Tensor
    intermediate_restoration: Tensor
    global_similarity: Tensor
    local_similarity: Tensor


class StepOutput(NamedTuple):
    """What a task gives the training loop for one batch; the loop knows no more about what it trains."""

    total: Tensor
    """The scalar to minimise."""
    numbers: dict[str, Tensor]
    """Scalars to record, by name. Not synchronised with the host."""
