"""Random scaling and rotation of volumes about their centre, as TorchIO's RandomAffine."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SCALES = (0.9, 1.1)
DEGREES = (-10.0, 10.0)


class Affine(NamedTuple):
    """Parameters of N volumes."""

    scales: Tensor
    """N 3; above 1 things look larger."""
    degrees: Tensor
    """N 3: rotation about each axis, applied about y first, then x, then z (ITK's Euler angles)."""


def uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    """Uniform float32 numbers in [low, high) on the generator's device."""
    return torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low


def draw_affine(n: int, generator: torch.Generator) -> Affine:
    """Scale U(0.9, 1.1) and rotation U(±10°), per volume and axis."""
    return Affine(uniform((n, 3), *SCALES, generator), uniform((n, 3), *DEGREES, generator))


def inverse_matrix(params: Affine) -> Tensor:
    """N 3 3: from offsets to the centre in the output to offsets in the input, both in voxels."""
    cos, sin = torch.cos(params.degrees * math.pi / 180), torch.sin(params.degrees * math.pi / 180)
    (cx, cy, cz), (sx, sy, sz) = cos.unbind(1), sin.unbind(1)
    # Rz·Rx·Ry written out, and transposed by stacking its rows as columns: the inverse of a rotation.
    rows = [
        torch.stack([cz * cy - sz * sx * sy, -sz * cx, cz * sy + sz * sx * cy], dim=1),
        torch.stack([sz * cy + cz * sx * sy, cz * cx, sz * sy - cz * sx * cy], dim=1),
        torch.stack([-cx * sy, sx, cx * cy], dim=1),
    ]
    return torch.stack(rows, dim=2) / params.scales.unsqueeze(1)


def apply_affine(volumes: Tensor, params: Affine, flip: Tensor | None = None) -> Tensor:
    """N X Y Z to the same shape: linear interpolation; outside, each volume's own minimum.

    As in ITK, half a voxel beyond the outermost voxel centres still counts as inside and takes the border's values.

    Args:
        volumes: N X Y Z.
        params: of each volume.
        flip: N, bool; where True the first axis is turned round before the map, which costs nothing here.
    """
    matrices = inverse_matrix(params)
    if flip is not None:
        matrices[:, 0] *= torch.where(flip, -1.0, 1.0).unsqueeze(1)
    x, y, z = volumes.shape[1:]
    # The upper neighbour of a last voxel counts nothing, but is read: behind the last of all there are zeros.
    flat = F.pad(volumes.reshape(-1), (0, y * z + z + 1))
    outside = volumes.amin(dim=(1, 2, 3), keepdim=True)
    positions = [_positions(matrices[:, axis], (x, y, z), axis) for axis in range(3)]
    low, fractions, beyond = _neighbours(positions, (x, y, z))
    values = _interpolate(flat, low, fractions, strides=(y * z, z, 1))
    return torch.where(beyond <= 0.5, values, outside)


def _positions(row: Tensor, space: Sequence[int], axis: int) -> Tensor:
    """N X Y Z: where every output voxel lies in the input along an axis, in voxels: outer sums of a linear map."""
    x, y, z = (
        row[:, i, None] * (torch.arange(length, device=row.device, dtype=row.dtype) - (length - 1) / 2)
        for i, length in enumerate(space)
    )
    return x[:, :, None, None] + (y[:, None, :, None] + (z[:, None, None, :] + (space[axis] - 1) / 2))


def _neighbours(positions: list[Tensor], space: Sequence[int]) -> tuple[Tensor, list[Tensor], Tensor]:
    """Where N X Y Z output voxels come from; their positions along each axis are changed in place.

    Returns:
        The place of each one's lower neighbour in the flattened volumes; how far along each axis it lies towards the
        upper one; how far beyond the outermost voxel centres it lies at most.
    """
    beyond, index = torch.zeros_like(positions[0]), torch.zeros_like(positions[0])
    fractions = []
    for position, length in zip(positions, space, strict=True):
        clamped = position.clamp(0, length - 1)
        torch.maximum(beyond, position.sub_(clamped).abs_(), out=beyond)
        below = torch.floor(clamped, out=position)
        # float32 counts exactly up to 2^24, enough for the voxels of one volume; where that starts is added as integer.
        index.mul_(length).add_(below)
        fractions.append(clamped.sub_(below))
    starts = torch.arange(len(index), device=index.device, dtype=torch.int32) * math.prod(space)
    return index.int().add_(starts.view(-1, 1, 1, 1)), fractions, beyond


def _interpolate(flat: Tensor, low: Tensor, fractions: list[Tensor], strides: tuple[int, int, int]) -> Tensor:
    """Trilinear interpolation by eight gathers; ``index_select`` is the fastest of torch's gathers on a CPU."""

    def at(offset: int) -> Tensor:
        return flat[offset:].index_select(0, low.view(-1)).view_as(low)

    def along_z(offset: int) -> Tensor:
        return at(offset).lerp_(at(offset + strides[2]), fractions[2])

    def along_yz(offset: int) -> Tensor:
        return along_z(offset).lerp_(along_z(offset + strides[1]), fractions[1])

    return along_yz(0).lerp_(along_yz(strides[0]), fractions[0])
