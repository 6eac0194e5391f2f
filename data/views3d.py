"""The 3D recipe: views of two global and six local crops of a CT scan, as in docs/reference.md, "Views"."""

from typing import NamedTuple

import torch
from torch import Tensor

from data.transforms.affine3d import Affine, apply_affine, draw_affine
from data.transforms.blur3d import blur_by, blur_matrices, draw_blur
from data.transforms.chunks import chunks, part
from data.transforms.intensity3d import apply_gamma, draw_gamma, draw_noise, z_normalize
from data.transforms.swap3d import SWAPS, apply_swaps, draw_swaps
from utils.records import RawCrops, Views


class Spatial(NamedTuple):
    """Parameters of the spatial operations of N crops."""

    flip: Tensor
    """N, bool: whether the first axis is reversed."""
    affine: Affine


class Appearance(NamedTuple):
    """Parameters of the appearance operations of N crops."""

    sigma: Tensor
    """N 3: σ of the blur along each axis, voxels."""
    noise: Tensor
    """N X Y Z, to be added."""
    gamma: Tensor
    """N."""
    swaps: Tensor | None
    """N S 2 3: first voxels of the two patches of S swaps; None for local views."""


class ViewParams(NamedTuple):
    """All random parameters of the views of B samples: 2·B global and V·B local crops, all of sample 0 first."""

    global_spatial: Spatial
    global_appearance: Appearance
    local_spatial: Spatial
    local_appearance: Appearance


def draw_spatial(n: int, generator: torch.Generator) -> Spatial:
    """Draw a flip with probability ½ and an affine map for each of ``n`` crops."""
    flip = torch.rand(n, generator=generator, device=generator.device) < 0.5
    return Spatial(flip, draw_affine(n, generator))


def draw_appearance(crops: Tensor, generator: torch.Generator, *, swaps: int) -> Appearance:
    """Draw blur, noise, gamma and the given number of swaps for each crop of N X Y Z; 0 for local ones."""
    n = len(crops)
    sigma, noise = draw_blur(n, generator), draw_noise(crops, generator)
    gamma = draw_gamma(n, generator)
    return Appearance(sigma, noise, gamma, draw_swaps(n, crops.shape[1:], generator, swaps) if swaps else None)


def apply_spatial(crops: Tensor, params: Spatial) -> Tensor:
    """Flip, scale and rotate N X Y Z."""
    transformed = torch.empty_like(crops)
    for which in chunks(crops):
        chunk = part(params, which)
        transformed[which] = apply_affine(crops[which], chunk.affine, chunk.flip)
    return transformed


def apply_appearance(crops: Tensor, params: Appearance) -> Tensor:
    """Apply blur, noise, gamma, z-normalisation and swaps to N X Y Z."""
    normalized = torch.empty_like(crops)
    # Many small operations, cheaper for all crops together.
    blur = blur_matrices(params.sigma, crops.shape[1:])
    for which in chunks(crops):
        noisy = blur_by(crops[which], [matrices[which] for matrices in blur]).add_(params.noise[which])
        normalized[which] = z_normalize(apply_gamma(noisy, params.gamma[which]))
    # Swaps change neither mean nor standard deviation, so that they can follow normalisation, for all crops at once.
    return normalized if params.swaps is None else apply_swaps(normalized, params.swaps)


class Views3d:
    """Makes the views of one step from a batch of raw crops, on the batch's device; every crop has its own draws.

    The operations are those of docs/reference.md, "Views": :func:`apply_spatial`, then :func:`apply_appearance`.

    Args:
        swaps: of two patches in each global crop.
    """

    def __init__(self, *, swaps: int = SWAPS) -> None:
        self.swaps = swaps

    def __call__(self, batch: RawCrops | tuple[Tensor, Tensor], generator: torch.Generator) -> Views:
        """Make all views of a batch.

        Args:
            batch: pair B 2 X Y Z and local B V x y z, values 0..1.
            generator: on the batch's device; the source of all random draws.

        Returns:
            float32: inputs B 1 X Y Z (local: B V 1 x y z), z-normalised; the target B 1 X Y Z in 0..1.
        """
        pair, local = (crops.float() for crops in batch)
        return self.apply(pair, local, self.draw(pair, local, generator))

    def draw(self, pair: Tensor, local: Tensor, generator: torch.Generator) -> ViewParams:
        """Draw the parameters of all views of crops B 2 X Y Z and B V x y z; only their shapes matter."""
        pairs, locals_ = pair.flatten(0, 1), local.flatten(0, 1)
        return ViewParams(
            draw_spatial(len(pairs), generator),
            draw_appearance(pairs, generator, swaps=self.swaps),
            draw_spatial(len(locals_), generator),
            draw_appearance(locals_, generator, swaps=0),
        )

    def apply(self, pair: Tensor, local: Tensor, params: ViewParams) -> Views:
        """Apply ``params`` to float32 B 2 X Y Z and B V x y z; the target is global view 1 after spatial operations."""
        transformed = apply_spatial(pair.flatten(0, 1), params.global_spatial)
        global1, global2 = apply_appearance(transformed, params.global_appearance).view_as(pair).unsqueeze(2).unbind(1)
        transformed_local = apply_spatial(local.flatten(0, 1), params.local_spatial)
        local_input = apply_appearance(transformed_local, params.local_appearance).view_as(local).unsqueeze(2)
        return Views(global1, global2, transformed.view_as(pair)[:, :1], local_input)
