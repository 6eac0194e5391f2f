"""The 2D views: what two global and six local crops of a chest X-ray become before the network sees them."""

from typing import NamedTuple

import torch
from torch import Tensor

from data.transforms.blur2d import apply_blur, draw_blur
from data.transforms.cutout import apply_cutout, draw_cutout
from data.transforms.jitter import Jitter, apply_jitter, draw_jitter
from data.transforms.resized_crop import Boxes, Cropper, draw_boxes
from data.transforms.rotation2d import Rotation, apply_rotation, draw_rotation
from utils.records import RawImages, Views
from utils.reused_memory import reusable_empty

GLOBAL_AREA, LOCAL_AREA = (0.3, 1.0), (0.05, 0.3)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Spatial(NamedTuple):
    """Where the pixels of N views come from."""

    boxes: Boxes
    rotation: Rotation


class Appearance(NamedTuple):
    """What happens to the values of N views."""

    sigma: Tensor
    jitter: Jitter
    cutout: Tensor | None


class ViewParams(NamedTuple):
    """All that is random in the views of B images: of 2·B global and V·B local ones, view 0 of all images first."""

    global_spatial: Spatial
    global_appearance: Appearance
    local_spatial: Spatial
    local_appearance: Appearance


def draw_spatial(sizes: Tensor, area: tuple[float, float], generator: torch.Generator) -> Spatial:
    """A box, a rotation and a flip per view, in images of ``sizes`` (N 2)."""
    return Spatial(draw_boxes(sizes, area, generator), draw_rotation(len(sizes), generator))


def draw_appearance(n: int, size: int, generator: torch.Generator, *, cutout: bool) -> Appearance:
    """Blur, jitter and, for global views, squares to cut out; per view."""
    sigma, jitter = draw_blur(n, generator), draw_jitter(n, generator)
    return Appearance(sigma, jitter, draw_cutout(n, size, generator) if cutout else None)


def apply_spatial(crop: Cropper, params: Spatial, size: int) -> Tensor:
    """K views of each of B images, uint8 B·K size size, view 0 of all images first."""
    return apply_rotation(crop(params.boxes, size), params.rotation)


def apply_appearance(views: Tensor, params: Appearance) -> Tensor:
    """uint8 N S S to the network's input, float32 N 3 S S."""
    changed = normalize(apply_jitter(apply_blur(views, params.sigma), params.jitter))
    return changed if params.cutout is None else apply_cutout(changed, params.cutout)


def normalize(views: Tensor) -> Tensor:
    """Grey N S S in 0..255 to float32 N 3 S S, normalised by ImageNet's mean and standard deviation."""
    grey, normalized = views.float(), reusable_empty((len(views), 3, *views.shape[1:]), views.device)
    for channel, mean, std in zip(normalized.unbind(1), MEAN, STD, strict=True):
        # A number that stays on the CPU holds up no GPU.
        torch.add(torch.tensor(-mean / std), grey, alpha=1 / (255 * std), out=channel)
    return normalized


class Views2d:
    """Raw images of one batch to the views of one step, on the batch's own device; every view has its own draws.

    Args:
        global_size, local_size: sides of the views in pixels.
        n_local: local views of each image, V.
    """

    def __init__(self, *, global_size: int = 224, local_size: int = 96, n_local: int = 6) -> None:
        self.global_size, self.local_size, self.n_local = global_size, local_size, n_local

    def __call__(self, batch: RawImages | tuple[Tensor, Tensor] | Tensor, generator: torch.Generator) -> Views:
        """All views of a batch.

        Args:
            batch: whole images, uint8 B 1 H W, with their sizes; or a tensor of images that fill it.
            generator: on the batch's device; all randomness comes from it.

        Returns:
            float32, B 3 S S (local: B V 3 s s), normalised.
        """
        if isinstance(batch, Tensor):
            sizes = torch.tensor(batch.shape[-2:]).expand(len(batch), 2).to(batch.device, non_blocking=True)
            batch = RawImages(batch, sizes)
        images, sizes = batch
        return self.apply(images, self.draw(sizes, generator))

    def draw(self, sizes: Tensor, generator: torch.Generator) -> ViewParams:
        """The parameters of all views of B images of ``sizes`` (B 2: height, width)."""
        n_global, n_local = 2 * len(sizes), self.n_local * len(sizes)
        return ViewParams(
            draw_spatial(sizes.repeat(2, 1), GLOBAL_AREA, generator),
            draw_appearance(n_global, self.global_size, generator, cutout=True),
            draw_spatial(sizes.repeat(self.n_local, 1), LOCAL_AREA, generator),
            draw_appearance(n_local, self.local_size, generator, cutout=False),
        )

    def apply(self, images: Tensor, params: ViewParams) -> Views:
        """The views of uint8 B 1 H W that ``params`` describe; the target is global view 1 as it was moved."""
        n, crop = len(images), Cropper(images)
        moved = apply_spatial(crop, params.global_spatial, self.global_size)
        global1, global2 = apply_appearance(moved, params.global_appearance).chunk(2)
        local = apply_appearance(apply_spatial(crop, params.local_spatial, self.local_size), params.local_appearance)
        return Views(global1, global2, normalize(moved[:n]), local.unflatten(0, (self.n_local, n)).transpose(0, 1))
