"""The 3D views: what two global and six local crops of a CT become before the network sees them."""

from typing import NamedTuple

import torch
from torch import Tensor

from data.transforms.affine3d import Affine, apply_affine, draw_affine
from data.transforms.blur3d import blur_by, blur_matrices, draw_blur
from data.transforms.chunks import chunks, part
from data.transforms.intensity3d import apply_gamma, draw_gamma, draw_noise, z_normalize
from data.transforms.swap3d import apply_swaps, draw_swaps
from utils.records import RawCrops, Views


class Spatial(NamedTuple):
    """Where the voxels of N crops come from."""

    flip: Tensor
    """N, bool: whether the first axis is reversed."""
    affine: Affine


class Appearance(NamedTuple):
    """What happens to the values of N crops."""

    sigma: Tensor
    noise: Tensor
    gamma: Tensor
    swaps: Tensor | None


class ViewParams(NamedTuple):
    """All that is random in the views of B samples: of 2·B global and V·B local crops, all of sample 0 first."""

    global_spatial: Spatial
    global_appearance: Appearance
    local_spatial: Spatial
    local_appearance: Appearance


def draw_spatial(n: int, generator: torch.Generator) -> Spatial:
    """A flip with probability ½ and an affine map, per crop."""
    flip = torch.rand(n, generator=generator, device=generator.device) < 0.5
    return Spatial(flip, draw_affine(n, generator))


def draw_appearance(crops: Tensor, generator: torch.Generator, *, swap: bool) -> Appearance:
    """Blur, noise, gamma and, for global crops, swaps; per crop of N X Y Z."""
    n = len(crops)
    sigma, noise = draw_blur(n, generator), draw_noise(crops, generator)
    gamma = draw_gamma(n, generator)
    return Appearance(sigma, noise, gamma, draw_swaps(n, crops.shape[1:], generator) if swap else None)


def apply_spatial(crops: Tensor, params: Spatial) -> Tensor:
    """N X Y Z, moved."""
    moved = torch.empty_like(crops)
    for which in chunks(crops):
        some = part(params, which)
        moved[which] = apply_affine(crops[which], some.affine, some.flip)
    return moved


def apply_appearance(crops: Tensor, params: Appearance) -> Tensor:
    """N X Y Z, changed and z-normalised."""
    changed = torch.empty_like(crops)
    # Of many small operations: cheaper for all crops together.
    blur = blur_matrices(params.sigma, crops.shape[1:])
    for which in chunks(crops):
        noisy = blur_by(crops[which], [matrices[which] for matrices in blur]).add_(params.noise[which])
        changed[which] = z_normalize(apply_gamma(noisy, params.gamma[which]))
    # A swap changes neither mean nor deviation, and so may as well come last: one by one, but in all crops at once.
    return changed if params.swaps is None else apply_swaps(changed, params.swaps)


class Views3d:
    """Raw crops of one batch to the views of one step, on the batch's own device; every crop has its own draws."""

    def __call__(self, batch: RawCrops | tuple[Tensor, Tensor], generator: torch.Generator) -> Views:
        """All views of a batch.

        Args:
            batch: pair B 2 X Y Z and local B V x y z, values 0..1.
            generator: on the batch's device; all randomness comes from it.

        Returns:
            Inputs B 1 X Y Z (local: B V 1 x y z), z-normalised; the target is not normalised.
        """
        pair, local = (crops.float() for crops in batch)
        return self.apply(pair, local, self.draw(pair, local, generator))

    def draw(self, pair: Tensor, local: Tensor, generator: torch.Generator) -> ViewParams:
        """The parameters of all views of crops B 2 X Y Z and B V x y z, of which only the shapes count."""
        pairs, locals_ = pair.flatten(0, 1), local.flatten(0, 1)
        return ViewParams(
            draw_spatial(len(pairs), generator),
            draw_appearance(pairs, generator, swap=True),
            draw_spatial(len(locals_), generator),
            draw_appearance(locals_, generator, swap=False),
        )

    def apply(self, pair: Tensor, local: Tensor, params: ViewParams) -> Views:
        """The views of float32 B 2 X Y Z and B V x y z that ``params`` describe; the target is not normalised."""
        moved = apply_spatial(pair.flatten(0, 1), params.global_spatial)
        global1, global2 = apply_appearance(moved, params.global_appearance).view_as(pair).unsqueeze(2).unbind(1)
        moved_local = apply_spatial(local.flatten(0, 1), params.local_spatial)
        local_input = apply_appearance(moved_local, params.local_appearance).view_as(local).unsqueeze(2)
        return Views(global1, global2, moved.view_as(pair)[:, :1], local_input)
