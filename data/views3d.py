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
from utils.reused_memory import reusable_empty


class Spatial(NamedTuple):
    """Where the voxels of N crops come from."""

    flip: Tensor
    """N, bool: whether the first axis is turned round."""
    affine: Affine


class Appearance(NamedTuple):
    """What happens to the values of N crops."""

    sigma: Tensor
    noise: Tensor
    gamma: Tensor
    swaps: Tensor | None


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
    return apply_affine(crops, params.affine, params.flip)


def apply_appearance(crops: Tensor, params: Appearance) -> Tensor:
    """N X Y Z, changed and z-normalised."""
    changed = reusable_empty(crops.shape, crops.device)
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
        moved, changed = self._views(pair.flatten(0, 1), generator, swap=True)
        moved, changed = moved.view_as(pair), changed.view_as(pair)
        _, local_input = self._views(local.flatten(0, 1), generator, swap=False)
        return Views(
            global1=changed[:, 0].unsqueeze(1),
            global2=changed[:, 1].unsqueeze(1),
            target=moved[:, 0].unsqueeze(1),
            local=local_input.view_as(local).unsqueeze(2),
        )

    @staticmethod
    def _views(crops: Tensor, generator: torch.Generator, *, swap: bool) -> tuple[Tensor, Tensor]:
        spatial = draw_spatial(len(crops), generator)
        appearance = draw_appearance(crops, generator, swap=swap)
        moved = reusable_empty(crops.shape, crops.device)
        for which in chunks(crops):
            moved[which] = apply_spatial(crops[which], part(spatial, which))
        return moved, apply_appearance(moved, appearance)
