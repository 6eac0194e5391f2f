"""Grey images of a list, by index."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.catalog.lists import fingerprint
from data.catalog.names import NameList
from data.readers.images import ImageSpec, read_grey
from utils.records import RawImages
from utils.reused_memory import stack

AS_THEY_ARE = ImageSpec()


class ImageFiles:
    """Grey images: (pixels uint8 1 H W,).

    Args:
        folders: the folders of the images.
        names: of the images, relative to their folder.
        folder_of: index of the folder of each image.
        spec: how they are read.
    """

    def __init__(
        self, folders: Sequence[Path], names: NameList, folder_of: np.ndarray, *, spec: ImageSpec = AS_THEY_ARE
    ) -> None:  # fmt: skip
        self.folders, self.names, self.folder_of, self.spec = list(folders), names, folder_of, spec
        self.fingerprint = fingerprint(names)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def path(self, index: int) -> Path:
        """Return the path of an image."""
        return self.folders[self.folder_of[index]] / self.names[index]

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        max_side, intensity, invert = self.spec
        grey = read_grey(self.path(index), max_side, intensity=intensity, invert=invert)
        return (torch.from_numpy(grey).unsqueeze(0),)

    def collate(self, samples: Sequence[tuple[Tensor, ...]]) -> RawImages:
        """Stack images, each padded at the right and the bottom to the largest height and width."""
        images = [image for (image,) in samples]
        sizes = torch.tensor([image.shape[1:] for image in images])
        if (sizes == sizes[0]).all():
            return RawImages(stack(images), sizes)
        pixels = torch.zeros(len(images), 1, *sizes.amax(dim=0).tolist(), dtype=torch.uint8)
        for i, image in enumerate(images):
            pixels[i, :, : image.shape[1], : image.shape[2]] = image
        return RawImages(pixels, sizes)
