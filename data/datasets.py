"""The data sets of pre-training: from folders and lists to single raw samples."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from data.chest import below_top, index_chest, index_chexpert, make_chest_lists, make_chexpert_list
from data.images import read_grey
from data.lists import cut_list, fingerprint, list_path, read_names
from data.luna import CropFile, find_crops, make_luna_lists, read_crop
from data.memory import stack
from data.names import NameList
from utils.errors import UserError
from utils.records import RawCrops, RawImages


class RawDataset(Protocol):
    """Samples by index; a broken one raises UserError or OSError. All but :meth:`collate` runs in loader workers."""

    fingerprint: str

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> tuple[Tensor, ...]: ...
    def name(self, index: int) -> str: ...
    def collate(self, samples: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]: ...


class ImageFiles:
    """Grey images: (pixels uint8 1 H W,).

    Args:
        folders: where images lie.
        names: of the images, relative to their folder.
        folder_of: which folder each image is in.
        longest: images are shrunk so that no side is longer, in pixels; 0 for as they are.
    """

    def __init__(self, folders: Sequence[Path], names: NameList, folder_of: np.ndarray, *, longest: int = 0) -> None:
        self.folders, self.names, self.folder_of, self.longest = list(folders), names, folder_of, longest
        self.fingerprint = fingerprint(names)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def path(self, index: int) -> Path:
        """The file of an image."""
        return self.folders[self.folder_of[index]] / self.names[index]

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return (torch.from_numpy(read_grey(self.path(index), self.longest)).unsqueeze(0),)

    def collate(self, samples: Sequence[tuple[Tensor, ...]]) -> RawImages:
        """Images side by side, each in the upper left corner of the largest height and width."""
        images = [image for (image,) in samples]
        sizes = torch.tensor([image.shape[1:] for image in images])
        if (sizes == sizes[0]).all():
            return RawImages(stack(images), sizes)
        pixels = torch.zeros(len(images), 1, *sizes.amax(dim=0).tolist(), dtype=torch.uint8)
        for i, image in enumerate(images):
            pixels[i, :, : image.shape[1], : image.shape[2]] = image
        return RawImages(pixels, sizes)


class CropFiles:
    """Crop pairs of CT: (pair float32 2 X Y Z, local float32 V x y z).

    Args:
        crops: the files.
        names: the scans that they come from, as listed.
    """

    def __init__(self, crops: Sequence[CropFile], names: NameList) -> None:
        self.crops = list(crops)
        self.fingerprint = fingerprint(names)
        self.shapes = tuple(tuple(x.shape) for x in self._first_readable())

    def _first_readable(self) -> tuple[Tensor, ...]:
        for crop in self.crops:
            try:
                return read_crop(crop)
            except UserError as error:
                last = error
        raise last

    def __len__(self) -> int:
        return len(self.crops)

    def name(self, index: int) -> str:
        return self.crops[index].name

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        sample = read_crop(self.crops[index])
        shapes = tuple(tuple(x.shape) for x in sample)
        if shapes != self.shapes:
            raise UserError(
                f"{self.crops[index].pair}: expected crops of {self.shapes}, as in the first file, got {shapes}"
            )
        return sample

    def collate(self, samples: Sequence[tuple[Tensor, ...]]) -> RawCrops:
        """Crops stacked."""
        return RawCrops(*(stack(field) for field in zip(*samples, strict=True)))


def open_dataset(
    *, name: str, root: str | Path, lists: str | Path, ratio: float, seed: int, part: str = "train", longest: int = 0
) -> ImageFiles | CropFiles:
    """The samples that pre-train: the first ``ratio`` of the list of ``part``.

    A list that is there is used as it is; one that is not is made from the data, and kept.

    Args:
        name: ``'chest'``, ``'chexpert'`` or ``'luna'``.
        root: the data set's folder.
        lists: the folder of the lists.
        ratio: share of the list.
        seed: of the order of a list that is made.
        part: ``'train'`` or ``'valid'``.
        longest: 2D: longest side of an image in pixels, 0 for as it is.

    Raises:
        UserError: no data, or not the data that the list names.
    """
    openers: dict[str, Callable[..., ImageFiles | CropFiles]] = {
        "chest": _open_chest,
        "chexpert": _open_chexpert,
        "luna": _open_luna,
    }
    return openers[name](Path(root), Path(lists), ratio, seed, part, longest)


def _first(path: Path, ratio: float) -> NameList:
    names, rest = cut_list(read_names(path), ratio)
    if not len(names):
        raise UserError(
            f"--ratio: {ratio} of the names in {path} is not one whole name, it has {len(rest)}; give a larger --ratio "
            "or more data"
        )
    return names


def _open_chest(root: Path, lists: Path, ratio: float, seed: int, part: str, longest: int) -> ImageFiles:
    index, path = index_chest(root), list_path(lists, "chest", part)
    if not path.exists():
        make_chest_lists(root, lists, index, seed=seed)
    names = _first(path, ratio)
    return ImageFiles(index.folders, names, index.locate(names, source=path), longest=longest)


def _open_chexpert(root: Path, lists: Path, ratio: float, seed: int, part: str, longest: int) -> ImageFiles:
    index, path = index_chexpert(root), list_path(lists, "chexpert", part)
    if not path.exists():
        make_chexpert_list(root, lists, index, seed=seed)
    names = below_top(_first(path, ratio))
    return ImageFiles(index.folders, names, index.locate(names, source=path), longest=longest)


def _open_luna(root: Path, lists: Path, ratio: float, seed: int, part: str, longest: int) -> CropFiles:
    path = list_path(lists, "luna", part)
    if not path.exists():
        make_luna_lists(root, lists, seed=seed)
    names = _first(path, ratio)
    return CropFiles(find_crops(root, names, part=part, source=path), names)
