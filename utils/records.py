"""Records that pass between data, models, losses and the training loop.

They are NamedTuples because collation, pinning, DataParallel's scatter and gather and DistributedDataParallel all
accept those. Shapes throughout the project use these letters: B batch, C channels, ``*S`` spatial axes of a global view
(H W in pixels, or X Y Z in voxels), ``*s`` those of a local view, V local views, F features, K classes or regions.
"""

from typing import NamedTuple

from torch import Tensor


class RawImages(NamedTuple):
    """A batch of the 2D loader: whole grey images, before any random operation."""

    pixels: Tensor
    """uint8, B 1 H W, grey values 0..255; an image smaller than H W is in the upper left corner, the rest is 0."""
    sizes: Tensor
    """int64, B 2: height and width of each image, pixels."""


class RawCrops(NamedTuple):
    """A batch of the 3D loader: crop pairs and local crops written by ``luna_preprocess.py``."""

    pair: Tensor
    """float32, B 2 X Y Z, −1000..1000 HU scaled to 0..1."""
    local: Tensor
    """float32, B V x y z, scaled alike."""


class LabelledImages(NamedTuple):
    """A batch for classification in 2D: whole grey images as in :class:`RawImages`, and their labels."""

    pixels: Tensor
    """uint8, B 1 H W, grey values 0..255."""
    sizes: Tensor
    """int64, B 2: height and width of each image, pixels."""
    labels: Tensor
    """float32, B K: 0 or 1, NaN where unlabelled."""


class LabelledCubes(NamedTuple):
    """A batch for classification in 3D: cubes cut out of scans, and their labels."""

    cubes: Tensor
    """float32, B 1 X Y Z, voxels of 1 mm, −1000..1000 HU scaled to 0..1."""
    labels: Tensor
    """float32, B K: 0 or 1."""


class LabelledWindows(NamedTuple):
    """A batch to train a classifier of volumes: windows cut out of each volume, and its labels."""

    windows: Tensor
    """float32, B W X Y Z, −1000..1000 HU or the limits of ``--intensity`` scaled to 0..1."""
    labels: Tensor
    """float32, B K: 0 or 1, NaN where unlabelled."""


class VolumeWindows(NamedTuple):
    """A batch to evaluate a classifier of volumes: all windows of each volume, and its labels."""

    windows: Tensor
    """float32, N 1 X Y Z, each with mean 0 and deviation 1; those of the first volume first."""
    counts: Tensor
    """int64, B: how many of the N windows each volume has."""
    labels: Tensor
    """float32, B K: 0 or 1, NaN where unlabelled."""


class LabelledCrops(NamedTuple):
    """A batch for segmentation: crops of images, and the masks of their regions."""

    images: Tensor
    """float32, B C *S, scaled to 0..1."""
    masks: Tensor
    """uint8, B K *S: 1 in the voxels of region k; regions may overlap."""


class WholeCase(NamedTuple):
    """A whole image to segment on the network's grid (``*S``), and its reference mask on the file's grid (``*N``)."""

    image: Tensor
    """float32, C *S, scaled to 0..1."""
    mask: Tensor
    """uint8, K *S: the reference mask, resampled to the network's grid."""
    truth: Tensor
    """uint8, K *N: the reference mask as stored in its file."""
    offset: Tensor
    """float64, one per axis: position of the first voxel of *N, in voxels of *S."""
    step: Tensor
    """float64, one per axis: spacing of the voxels of *N, in voxels of *S."""
    spacing: Tensor
    """float64, one per axis: spacing of the voxels of *N in mm; 1 pixel where the file has no spacing."""


class Views(NamedTuple):
    """The views of one batch, float32, the network's inputs. Every field can be split along B, as over several GPUs.

    Inputs are normalised: in 2D by ImageNet's mean and standard deviation, in 3D each crop to mean 0 and deviation 1.
    """

    global1: Tensor
    """B C *S, the first global view."""
    global2: Tensor
    """B C *S, the second global view."""
    target: Tensor
    """B C *S, compared with the restoration of the first global view: normalised as the inputs in 2D, 0..1 in 3D."""
    local: Tensor
    """B V C *s, the local views."""


class Output(NamedTuple):
    """The network's output for one batch of inputs; docs/reference.md, "Networks", describes the parts."""

    restoration: Tensor | None
    """B C *S, in the range of the target; None without restoration."""
    embeddings: list[tuple[Tensor, Tensor]]
    """Per decoder stage, deepest first: (projection, prediction), each B F."""
    intermediate: list[Tensor]
    """Per decoder stage, deepest first: the stage's restoration at input size, B C *S. Empty without restoration."""


class LossWeights(NamedTuple):
    """What each term of the loss is multiplied with in the sum; as published, all count alike."""

    restoration: float = 1.0
    intermediate_restoration: float = 1.0
    global_similarity: float = 1.0
    local_similarity: float = 1.0


AS_PUBLISHED = LossWeights()


class LossTerms(NamedTuple):
    """The loss of a step and its terms, scalars; docs/reference.md, "Loss", defines them."""

    total: Tensor
    """The sum of the four terms, each times its :class:`LossWeights`."""
    restoration: Tensor
    """Mean squared error, 0 or more."""
    intermediate_restoration: Tensor
    """Mean squared error times its weight β, 0 or more."""
    global_similarity: Tensor
    """Negative cosine similarity, −1..1."""
    local_similarity: Tensor
    """Negative cosine similarity, −1..1."""


class StepOutput(NamedTuple):
    """The result of a task for one batch; all that the training loop needs to know about it."""

    total: Tensor
    """Scalar, the loss to minimise."""
    numbers: dict[str, Tensor]
    """Scalars to record, by name; still on the device, so that the host does not wait for them."""
