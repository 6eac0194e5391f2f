"""The files of a data set, each read whole once: what it is, and whether its samples can be used."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.datasets.candidates import CandidateCubes
from data.datasets.cases import read_case
from data.datasets.classification import LabelledFiles
from data.datasets.images import ImageFiles
from data.datasets.luna import CropFiles
from data.datasets.segmentation import WholeCases
from data.fresh_crops import FreshCrops
from data.labelled_volumes import LabelledVolumes
from data.points import PointCubes
from data.preprocess import Preprocessing, load_volume
from data.readers.arrays import read_array
from data.readers.cubes import require_inside
from data.readers.file_facts import FileFacts, describe_image, describe_volume
from data.readers.volumes import Source, open_source, read_volume, require_hounsfield
from data.unlabelled import PreparedFiles
from utils.errors import UserError


class Look(NamedTuple):
    """What reading a file whole found."""

    facts: FileFacts
    found: tuple[str, ...] = ()
    """Regions that its mask has."""
    lost: tuple[str, ...] = ()
    """Why samples of this file cannot be used, a line for each; its other samples can."""


class Looks:
    """A data set's files by index, as an :class:`data.evaluation_loader.EvaluationLoader` reads them.

    Args:
        dataset: the data set.
        unit: what a file is, in the plural.
    """

    def __init__(self, dataset: Any, unit: str) -> None:
        self.dataset, self.unit, self.fingerprint = dataset, unit, ""

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, index: int) -> str:
        """Return the name of a file."""
        return self.dataset.name(index)

    def samples(self, index: int) -> int:
        """Return how many samples are made of a file."""
        return 1

    def __getitem__(self, index: int) -> Any:
        """Read a file as a run does.

        Raises:
            UserError, OSError: none of its samples can be used.
        """
        raise NotImplementedError

    def collate(self, samples: Sequence[Any]) -> Any:
        """Return the looks as they are."""
        return list(samples)


class _Images(Looks):
    dataset: ImageFiles

    def __getitem__(self, index: int) -> Look:
        (pixels,) = self.dataset[index]
        return Look(describe_image(self.dataset.path(index)).with_values(pixels.numpy()))


class _Crops(Looks):
    dataset: CropFiles

    def __getitem__(self, index: int) -> Look:
        pair, _ = self.dataset[index]
        stored = read_array(self.dataset.crops[index].pair, what="crops", mapped=True).dtype
        return Look(FileFacts(f"crop pair, {stored}", tuple(pair.shape[1:])).with_values(pair.numpy()))


class _FreshCrops(Looks):
    dataset: FreshCrops

    def __len__(self) -> int:
        return len(self.dataset.volumes)

    def name(self, index: int) -> str:
        return self.dataset.volumes.volumes[index].name

    def samples(self, index: int) -> int:
        return self.dataset.pairs

    def __getitem__(self, index: int) -> Look:
        self.dataset.draw(0, index * self.dataset.pairs)
        volume, spacing = self.dataset.volumes[index], self.dataset.settings[index].spacing
        facts = FileFacts(f"whole volume, {volume.dtype}", volume.shape, (spacing,) * 3)
        return Look(facts.with_values(volume))


class _Cases(Looks):
    dataset: WholeCases

    def __getitem__(self, index: int) -> Look:
        case, reading = self.dataset.cases[index], self.dataset.reading
        prepared, _ = read_case(case, reading)
        there = set(np.unique(prepared.labels).tolist())
        found = tuple(region.name for region in self.dataset.regions if there & set(region.labels))
        return Look(_describe(case.images[0], reading.dim).with_values(prepared.image), found)


class _Files(Looks):
    """Files that are shown by windows, with labels or without."""

    def _source(self, index: int) -> tuple[Source, Preprocessing]:
        if isinstance(self.dataset, LabelledVolumes):
            return self.dataset.volumes.sources[index], self.dataset.reading
        return self.dataset.files.sources[index], self.dataset.spec

    def __getitem__(self, index: int) -> Look:
        source, reading = self._source(index)
        if reading.dim == 3 and not reading.whole:
            return Look(describe_volume(source).with_values(load_volume(source, reading)))
        self.dataset[index]
        return Look(_describe(source, reading.dim))


class _Scans(Looks):
    """Scans with points in them, each of which is a sample."""

    def __init__(self, dataset: CandidateCubes | PointCubes) -> None:
        super().__init__(dataset, "scans")
        scans, points, files = _points_of(dataset)
        self.names = list(dict.fromkeys(scans))
        self.points: dict[str, list[np.ndarray]] = {name: [] for name in self.names}
        for name, point in zip(scans, points, strict=True):
            self.points[name].append(point)
        self.files = files

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def samples(self, index: int) -> int:
        return len(self.points[self.names[index]])

    def __getitem__(self, index: int) -> Look:
        name = self.names[index]
        source = self.files[name]
        values, _ = read_volume(source)
        require_hounsfield(source, values)
        grid, lost = open_source(source)[0], list[str]()
        for point in self.points[name]:
            try:
                require_inside(source, grid, point)
            except UserError as error:
                lost.append(str(error))
        return Look(describe_volume(source).with_values(values), lost=tuple(lost))


def _points_of(dataset: CandidateCubes | PointCubes) -> tuple[list[str], np.ndarray, dict[str, Source]]:
    """Return the scan and the place of each point, and the scans' files."""
    if isinstance(dataset, CandidateCubes):
        return dataset.patients, dataset.candidates.points, dict(dataset.files)
    found = dataset.found
    return found.scans, found.points, dict(zip(found.scans, found.files.sources, strict=True))


def _describe(source: Source, dim: int) -> FileFacts:
    return describe_image(source) if dim == 2 and isinstance(source, Path) else describe_volume(source)


def look_at(dataset: Any) -> Looks:
    """Return the looks at the files of a data set of pre-training, fine-tuning, probes, predictions or features."""
    if isinstance(dataset, CandidateCubes | PointCubes):
        return _Scans(dataset)
    if isinstance(dataset, LabelledFiles):
        return _Images(dataset.images, "images")
    if isinstance(dataset, ImageFiles):
        return _Images(dataset, "images")
    if isinstance(dataset, CropFiles):
        return _Crops(dataset, "crop pairs")
    if isinstance(dataset, FreshCrops):
        return _FreshCrops(dataset, "volumes")
    if isinstance(dataset, LabelledVolumes):
        return _Files(dataset, "volumes")
    if isinstance(dataset, PreparedFiles):
        return _Files(dataset, "files")
    return _Cases(dataset, "cases")
