"""Crop pairs drawn anew in every epoch out of whole volumes, by the rules of ``luna_preprocess.py``."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from data.crops import find_limits
from data.datasets.whole_volumes import WholeVolumes
from data.pairs import CropSettings, make_pairs
from utils.errors import UserError
from utils.fingerprint import fingerprint_of
from utils.records import RawCrops
from utils.reused_memory import stack
from utils.seeding import numpy_generator


class FreshCrops:
    """Each volume as often as it has pairs in an epoch: (pair float32 2 X Y Z, local float32 V x y z).

    A sample is a function of seed, epoch and index.

    Args:
        volumes: the volumes.
        seed: of the boxes, with the epoch, the volume and the number of the pair.

    Raises:
        UserError: a volume has no record, or other settings than the first one.
    """

    def __init__(self, volumes: WholeVolumes, *, seed: int) -> None:
        self.volumes, self.seed = volumes, seed
        self.settings = [self._settings_of(i) for i in range(len(volumes))]
        first = self.settings[0]
        self.pairs = first.pairs
        for settings, volume in zip(self.settings, volumes.volumes, strict=True):
            if (settings.shape, settings.pairs) != (first.shape, first.pairs):
                raise UserError(
                    f"{volume.path}: expected {first.pairs} pairs of {first.shape} voxels, as of the first volume, its "
                    f"record has {settings.pairs} of {settings.shape}; preprocess all of them with the same options"
                )
        self.fingerprint = fingerprint_of(volumes.fingerprint, repr(self.settings))

    def _settings_of(self, index: int) -> CropSettings:
        return CropSettings.from_record(self.volumes.record(index)["settings"])

    def __len__(self) -> int:
        return len(self.volumes) * self.pairs

    def name(self, index: int) -> str:
        return f"{self.volumes.volumes[index // self.pairs].name} pair {index % self.pairs}"

    def draw(self, epoch: int, index: int) -> tuple[Tensor, ...]:
        """Return a pair of a volume in an epoch.

        Raises:
            UserError: the volume cannot be read, or no two boxes have little enough tissue.
        """
        which = index // self.pairs
        volume, settings = self.volumes[which], self.settings[which]
        rng = numpy_generator(self.seed, "fresh crops", epoch, self.name(index))
        limits = find_limits(volume.shape, settings.box_scale, settings.border)
        sample = next(make_pairs(volume, limits, settings._replace(pairs=1), rng), None)
        if sample is None:
            raise UserError(f"{self.volumes.volumes[which].path}: expected a crop pair in epoch {epoch}, found none")
        return tuple(torch.from_numpy(np.ascontiguousarray(crops)) for crops in sample)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return self.draw(0, index)

    def collate(self, samples: Sequence[tuple[Tensor, ...]]) -> RawCrops:
        """Stack crops."""
        return RawCrops(*(stack(field) for field in zip(*samples, strict=True)))
