"""The 2D recipe: two global and six local views of a chest X-ray, as in docs/reference.md, "Views"."""

from typing import NamedTuple

import torch
from torch import Tensor

from data.transforms.blur2d import apply_blur, draw_blur
from data.transforms.cutout import SIDE, apply_cutout, draw_cutout
from data.transforms.jitter import Jitter, apply_jitter, draw_jitter
from data.transforms.resized_crop import Boxes, Cropper, draw_boxes
from data.transforms.rotation2d import Rotation, apply_rotation, draw_rotation
from utils.constants import constant
from utils.records import RawImages, Views
from utils.reused_memory import reusable_empty

GLOBAL_AREA, LOCAL_AREA = (0.3, 1.0), (0.05, 0.3)  # share of the image's area
# ImageNet's, of red, green and blue in 0..1.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Spatial(NamedTuple):
    """Parameters of the spatial operations of N views."""

    boxes: Boxes
    rotation: Rotation


class Appearance(NamedTuple):
    """Parameters of the appearance operations of N views."""

    sigma: Tensor
    """N: σ of the blur in pixels, 0 for none."""
    jitter: Jitter
    cutout: Tensor | None
    """N 3 2: centres of the squares set to 0; None for local views."""


class ViewParams(NamedTuple):
    """All random parameters of the views of B images: 2·B global and V·B local ones, view 0 of all images first."""

    global_spatial: Spatial
    global_appearance: Appearance
    local_spatial: Spatial
    local_appearance: Appearance


def draw_spatial(sizes: Tensor, area: tuple[float, float], generator: torch.Generator) -> Spatial:
    """Draw a box, a rotation and a flip for each view, in images of ``sizes`` (N 2: height, width)."""
    return Spatial(draw_boxes(sizes, area, generator), draw_rotation(len(sizes), generator))


def draw_appearance(n: int, size: int, generator: torch.Generator, *, cutout: bool) -> Appearance:
    """Draw blur, jitter and, with ``cutout``, squares to set to 0 for each of ``n`` views of side ``size``."""
    sigma, jitter = draw_blur(n, generator), draw_jitter(n, generator)
    return Appearance(sigma, jitter, draw_cutout(n, size, generator) if cutout else None)


def apply_spatial(crop: Cropper, params: Spatial, size: int) -> Tensor:
    """Cut, rotate and flip K views of each of B images: uint8 B·K size size, view 0 of all images first."""
    return apply_rotation(crop(params.boxes, size), params.rotation)


def apply_appearance(views: Tensor, params: Appearance, cutout_size: int = SIDE) -> Tensor:
    """Blur, jitter, normalise and cut out: uint8 N S S to the network's input, float32 N 3 S S."""
    normalized = normalize(apply_jitter(apply_blur(views, params.sigma), params.jitter))
    return normalized if params.cutout is None else apply_cutout(normalized, params.cutout, cutout_size)


def normalize(views: Tensor) -> Tensor:
    """Convert grey N S S in 0..255 to float32 N 3 S S, normalised by ImageNet's mean and standard deviation."""
    grey, normalized = views.float(), reusable_empty((len(views), 3, *views.shape[1:]), views.device)
    for channel, mean, std in zip(normalized.unbind(1), MEAN, STD, strict=True):
        torch.add(constant(-mean / std, views.device), grey, alpha=1 / (255 * std), out=channel)
    return normalized


class Views2d:
    """Makes the views of one step from a batch of raw images, on the batch's device; every view has its own draws.

    The operations are those of docs/reference.md, "Views", in this order: :func:`apply_spatial`, then
    :func:`apply_appearance`.

    Args:
        global_size, local_size: sides of the views in pixels.
        n_local: local views of each image, V.
        cutout_size: side of the squares that are set to 0 in global views, pixels.
    """

    def __init__(
        self, *, global_size: int = 224, local_size: int = 96, n_local: int = 6, cutout_size: int = SIDE
    ) -> None:  # fmt: skip
        self.global_size, self.local_size, self.n_local = global_size, local_size, n_local
        self.cutout_size = cutout_size

    def __call__(self, batch: RawImages | tuple[Tensor, Tensor] | Tensor, generator: torch.Generator) -> Views:
        """Make all views of a batch.

        Args:
            batch: whole images, uint8 B 1 H W, with their sizes in pixels; or a tensor of images without padding.
            generator: on the batch's device; the source of all random draws.

        Returns:
            float32, B 3 S S (local: B V 3 s s), normalised.
        """
        if isinstance(batch, Tensor):
            sizes = torch.tensor(batch.shape[-2:]).expand(len(batch), 2).to(batch.device, non_blocking=True)
            batch = RawImages(batch, sizes)
        images, sizes = batch
        return self.apply(images, self.draw(sizes, generator))

    def draw(self, sizes: Tensor, generator: torch.Generator) -> ViewParams:
        """Draw the parameters of all views of B images of ``sizes`` (B 2: height, width)."""
        n_global, n_local = 2 * len(sizes), self.n_local * len(sizes)
        return ViewParams(
            draw_spatial(sizes.repeat(2, 1), GLOBAL_AREA, generator),
            draw_appearance(n_global, self.global_size, generator, cutout=True),
            draw_spatial(sizes.repeat(self.n_local, 1), LOCAL_AREA, generator),
            draw_appearance(n_local, self.local_size, generator, cutout=False),
        )

    def apply(self, images: Tensor, params: ViewParams) -> Views:
        """Apply ``params`` to uint8 B 1 H W; the target is global view 1 after the spatial operations, normalised."""
        n, crop = len(images), Cropper(images)
        transformed = apply_spatial(crop, params.global_spatial, self.global_size)
        global1, global2 = apply_appearance(transformed, params.global_appearance, self.cutout_size).chunk(2)
        local = apply_appearance(apply_spatial(crop, params.local_spatial, self.local_size), params.local_appearance)
        local = local.unflatten(0, (self.n_local, n)).transpose(0, 1)
        return Views(global1, global2, normalize(transformed[:n]), local)
