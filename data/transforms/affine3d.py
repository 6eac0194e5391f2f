"""Random scaling and rotation of volumes about their centre, equal to TorchIO's RandomAffine."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SCALES = (0.9, 1.1)
DEGREES = (-10.0, 10.0)


class Affine(NamedTuple):
    """Affine parameters of N volumes."""

    scales: Tensor
    """N 3: scale factor along each axis; above 1 structures appear larger."""
    degrees: Tensor
    """N 3: rotation about each axis in degrees, applied about y, then x, then z (ITK's Euler angles)."""


def uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    """Draw uniform float32 numbers in [low, high) on the generator's device."""
    return torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low


def draw_affine(n: int, generator: torch.Generator) -> Affine:
    """Draw scales U(0.9, 1.1) and rotations U(±10°) for each of N volumes and each axis."""
    return Affine(uniform((n, 3), *SCALES, generator), uniform((n, 3), *DEGREES, generator))


def inverse_matrix(params: Affine) -> Tensor:
    """N 3 3: maps offsets from the centre in the output to offsets in the input, both in voxels."""
    radians = params.degrees * math.pi / 180
    cos, sin = torch.cos(radians), torch.sin(radians)
    (cx, cy, cz), (sx, sy, sz) = cos.unbind(1), sin.unbind(1)
    # Rz·Rx·Ry written out, and transposed by stacking its rows as columns: the inverse of a rotation.
    rows = [
        torch.stack([cz * cy - sz * sx * sy, -sz * cx, cz * sy + sz * sx * cy], dim=1),
        torch.stack([sz * cy + cz * sx * sy, cz * cx, sz * sy - cz * sx * cy], dim=1),
        torch.stack([-cx * sy, sx, cx * cy], dim=1),
    ]
    return torch.stack(rows, dim=2) / params.scales.unsqueeze(1)


def apply_affine(volumes: Tensor, params: Affine, flip: Tensor | None = None) -> Tensor:
    """Apply scales and rotations by linear interpolation; outside voxels get the volume's minimum. Returns N X Y Z.

    As in ITK, positions up to half a voxel beyond the outermost voxel centres count as inside and get border values.

    Args:
        volumes: N X Y Z.
        params: scales and rotations of each volume.
        flip: N, bool; where True the first axis is reversed before the map, at no extra cost.
    """
    matrices = inverse_matrix(params)
    if flip is not None:
        matrices[:, 0] *= torch.where(flip, -1.0, 1.0).unsqueeze(1)
    x, y, z = volumes.shape[1:]
    # Upper neighbours of the last voxels have weight 0 but are read, so that zeros are needed after the last volume.
    flat = F.pad(volumes.reshape(-1), (0, y * z + z + 1))
    outside = volumes.amin(dim=(1, 2, 3), keepdim=True)
    positions = [_positions(matrices[:, axis], (x, y, z), axis) for axis in range(3)]
    low, fractions, beyond = _neighbours(positions, (x, y, z))
    values = _interpolate(flat, low, fractions, strides=(y * z, z, 1))
    return torch.where(beyond <= 0.5, values, outside)


def _positions(row: Tensor, space: Sequence[int], axis: int) -> Tensor:
    """N X Y Z: position of every output voxel along one axis of the input, in voxels, as outer sums of a linear map."""
    x, y, z = (
        row[:, i, None] * (torch.arange(length, device=row.device, dtype=row.dtype) - (length - 1) / 2)
        for i, length in enumerate(space)
    )
    return x[:, :, None, None] + (y[:, None, :, None] + (z[:, None, None, :] + (space[axis] - 1) / 2))


def _neighbours(positions: list[Tensor], space: Sequence[int]) -> tuple[Tensor, list[Tensor], Tensor]:
    """Find the input voxels around each position (N X Y Z per axis); ``positions`` are overwritten.

    Returns:
        Index of the lower neighbour in the flattened volumes; distance from it along each axis, 0..1; largest distance
        beyond the outermost voxel centres over the axes, in voxels.
    """
    beyond, index = torch.zeros_like(positions[0]), torch.zeros_like(positions[0])
    fractions = []
    for position, length in zip(positions, space, strict=True):
        clamped = position.clamp(0, length - 1)
        torch.maximum(beyond, position.sub_(clamped).abs_(), out=beyond)
        below = torch.floor(clamped, out=position)
        # float32 is exact up to 2^24, enough to index one volume; the start of each volume is added as an integer.
        index.mul_(length).add_(below)
        fractions.append(clamped.sub_(below))
    starts = torch.arange(len(index), device=index.device, dtype=torch.int32) * math.prod(space)
    return index.int().add_(starts.view(-1, 1, 1, 1)), fractions, beyond


def _interpolate(flat: Tensor, low: Tensor, fractions: list[Tensor], strides: tuple[int, int, int]) -> Tensor:
    """Trilinear interpolation by eight gathers; ``index_select`` is torch's fastest gather on a CPU."""

    def at(offset: int) -> Tensor:
        return flat[offset:].index_select(0, low.view(-1)).view_as(low)

    def along_z(offset: int) -> Tensor:
        return at(offset).lerp_(at(offset + strides[2]), fractions[2])

    def along_yz(offset: int) -> Tensor:
        return along_z(offset).lerp_(along_z(offset + strides[1]), fractions[1])

    return along_yz(0).lerp_(along_yz(strides[0]), fractions[0])
