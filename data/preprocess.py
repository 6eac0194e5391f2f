"""One file to exactly what a network expects, as it saw images in pre-training or in fine-tuning.

>>> spec = preprocessing_of("best.pt", dim=2)
>>> encoder = models.pretrained.load_encoder("best.pt", dim=2).eval()
>>> features = encoder(preprocess("patient.dcm", spec))[-1]
"""

import argparse
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data import views2d
from data.catalog.scans import is_subset
from data.crop_facts import CROPS
from data.datasets.cases import Case, ReadSpec, read_case, scaled
from data.inputs import as_input
from data.readers.geometry import SPACING
from data.readers.grey_levels import FROM_FILE
from data.readers.images import ImageSpec, read_grey
from data.readers.volumes import CT, Source, VolumeSpec, load_resampled
from data.transforms.central_crop import central_square
from data.transforms.hounsfield import scale
from data.transforms.intensity3d import z_normalize
from utils.checkpoints import RECORD, read_checkpoint
from utils.errors import UserError


class Preprocessing(NamedTuple):
    """How files become inputs of a network."""

    dim: int
    window: tuple[int, ...]
    """Pixels or voxels that the network sees at once."""
    intensity: str
    """Which values become black and white: in 2D see :mod:`data.readers.grey_levels`, in 3D ``ct``, ``minmax`` or
    ``percentiles``."""
    spacing: float = SPACING
    """3D, pre-trained: mm to which volumes are resampled."""
    whole: bool = False
    """Whether images are read as for segmentation, whole and with values in 0..1, of which windows are cut. Else, an
    X-ray is shown by its central square, and each window of a volume is z-normalised, as in pre-training."""
    image_size: int = 0
    """2D: longest side in pixels to which larger images are shrunk; 0 to keep their size."""
    invert: bool = False
    """2D: whether black and white are exchanged."""

    @property
    def image_spec(self) -> ImageSpec:
        """How X-rays are read."""
        return ImageSpec(self.image_size, self.intensity, self.invert)

    def as_record(self) -> dict[str, Any]:
        """Return plain values, as a checkpoint and JSON store them."""
        return self._asdict() | {"window": list(self.window)}

    def __str__(self) -> str:
        size = "×".join(map(str, self.window))
        if self.dim == 2:
            return f"{self.intensity}, {'windows' if self.whole else 'the central square'} of {size} pixels"
        grid = "as stored" if self.whole and self.intensity != CT else f"at {self.spacing:g} mm"
        return f"{self.intensity}, {grid}, in windows of {size} voxels"


PRETRAINED = {2: Preprocessing(2, (224, 224), FROM_FILE), 3: Preprocessing(3, (64, 64, 32), CT)}
"""As published, by dimension."""
OF_IMAGES = ("image_size", "intensity", "invert")


def preprocessing_of(weights: str | Path, dim: int) -> Preprocessing:
    """Return how the network of a ``.pt`` file saw images, by the record or the options stored in it, else PRETRAINED.

    Files of the published program do not say how crops were made: for others than the published ones, change
    ``window``, ``intensity`` and ``spacing`` of the result by ``_replace``.

    Raises:
        UserError: the file cannot be read, or is of the other dimension.
    """
    content = read_checkpoint(weights)
    options = content.get("opt", {})
    options = vars(options) if isinstance(options, argparse.Namespace) else dict(options)
    stored = content.get(RECORD, {}).get("reading")
    found = preprocessing_from(stored) if stored else PRETRAINED[dim]
    if (got := found.dim if stored else options.get("d", dim)) != dim:
        raise UserError(f"{weights}: expected weights for --d {dim}, they are for --d {got}")
    if stored:
        return found
    if dim == 3:
        return preprocessing_from(found.as_record() | options.get(CROPS, {}))
    typed = {name: options[name] for name in OF_IMAGES if options.get(name) is not None}
    return found._replace(window=(options.get("global_size", found.window[0]),) * 2, **typed)


def preprocessing_from(stored: Mapping[str, Any]) -> Preprocessing:
    """Return a preprocessing from its fields as a checkpoint stores them."""
    known = {name: stored[name] for name in Preprocessing._fields if name in stored}
    return Preprocessing(**known | {"window": tuple(known["window"])})


def preprocess(path: str | Source | Sequence[str | Source], spec: Preprocessing) -> Tensor:
    """Read one image or volume as inputs of a network, float32 N C *window.

    N is 1 for an X-ray that is shown by its central square. Else it is the number of windows, as few as cover the
    image; they overlap where it is no multiple of them, and where it is smaller it is padded with 0 at the end.

    Args:
        path: an image or volume of any kind that training reads, or a DICOM series; or a list of those of a case of
            several channels, in their order. Channels are resampled to the grid of the first.
        spec: how it is read, see :func:`preprocessing_of`.

    Raises:
        UserError: a file is missing or damaged, a CT cannot be in Hounsfield units, channels differ in size or
            position, there are several though the network sees one, or none is given.
    """
    parts = [Path(part) if isinstance(part, str) else part for part in _as_list(path)]
    if not parts:
        raise UserError("preprocess: expected a file, or the files of a case's channels, got an empty list")
    source, *others = parts
    if others and not (spec.whole and spec.dim == 3):
        raise UserError(
            f"{source}: expected one file, got {1 + len(others)}; only networks that segment volumes take them"
        )
    if spec.whole:
        prepared, _ = read_case(Case(str(source), "", (source, *others), None), read_spec(spec))
        image = torch.from_numpy(scaled(prepared.image, prepared.low, prepared.high))
        return as_input(spec.dim)(cut_windows(image, spec.window))
    if spec.dim == 3:
        return volume_windows(load_volume(source, spec), spec)
    pixels = torch.from_numpy(read_grey(_as_path(source), spec.image_size, **_grey(spec))).unsqueeze(0)
    return views2d.normalize(central_square(pixels, spec.window[0]).float())


def read_spec(spec: Preprocessing) -> ReadSpec:
    """Return how whole cases are read."""
    return ReadSpec(spec.dim, (0,), hounsfield=spec.intensity == CT, max_side=spec.image_size)


def load_volume(source: Source, spec: Preprocessing) -> np.ndarray:
    """Read a volume that is not shown as for segmentation: int16 X Y Z, HU, see :func:`load_resampled`."""
    as_stored = isinstance(source, Path) and is_subset(source.parent.name)
    return load_resampled(source, require_hu=True, spec=VolumeSpec(spec.intensity, spec.spacing, as_stored=as_stored))


def volume_windows(volume: np.ndarray, spec: Preprocessing) -> Tensor:
    """Return all windows of a volume of :func:`load_volume` as :func:`preprocess` does, float32 N 1 *window."""
    image = torch.from_numpy(scale(volume))
    return z_normalize(cut_windows(image.unsqueeze(0), spec.window)[:, 0]).unsqueeze(1)


def _as_list(path: str | Source | Sequence[str | Source]) -> Sequence[str | Source]:
    return [path] if isinstance(path, str | Source) else path


def _as_path(source: Source) -> Path:
    if not isinstance(source, Path):
        raise UserError(f"{source}: expected an image, it is a volume; weights of 2D cannot read it")
    return source


def _grey(spec: Preprocessing) -> dict[str, Any]:
    return {"intensity": spec.intensity, "invert": spec.invert}


def cut_windows(image: Tensor, window: Sequence[int]) -> Tensor:
    """Cut C *S into windows N C *window that cover it, evenly spaced along each axis; padded with 0 where smaller."""
    image = pad_to(image, window)
    starts = [_starts(n, w) for n, w in zip(image.shape[1:], window, strict=True)]
    slices = ([slice(s, s + w) for s in found] for found, w in zip(starts, window, strict=True))
    return torch.stack([image[(slice(None), *box)] for box in itertools.product(*slices)])


def pad_to(image: Tensor, window: Sequence[int]) -> Tensor:
    """Pad C *S with 0 at the end of the axes along which it is smaller than a window."""
    missing = [max(0, w - n) for w, n in zip(window, image.shape[1:], strict=True)]
    return F.pad(image, [side for m in reversed(missing) for side in (0, m)])


def _starts(length: int, window: int) -> list[int]:
    count = math.ceil(length / window)
    return [round(i * (length - window) / max(count - 1, 1)) for i in range(count)]
