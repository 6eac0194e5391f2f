"""Random scaling and rotation of volumes about their centre, as TorchIO's RandomAffine."""

import math
from typing import NamedTuple

import torch
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
    beyond, low, fractions = None, [], []
    for axis, length in enumerate(volumes.shape[1:]):
        position = _positions(matrices[:, axis], volumes.shape[1:]).add_((length - 1) / 2)
        clamped = position.clamp(0, length - 1)
        distance = position.sub_(clamped).abs_()
        beyond = distance if beyond is None else torch.maximum(beyond, distance, out=beyond)
        # The last voxel is reached as the upper neighbour of the one before it, so that there always is a neighbour.
        below = clamped.floor().clamp_(max=max(length - 2, 0))
        low.append(below)
        fractions.append(clamped.sub_(below))
    assert beyond is not None
    outside = volumes.amin(dim=(1, 2, 3), keepdim=True).expand_as(volumes)
    return torch.lerp(outside, _interpolate(volumes, low, fractions), (beyond <= 0.5).float())


def _positions(row: Tensor, shape: torch.Size) -> Tensor:
    """N X Y Z: one coordinate of every output voxel in the input, from the centre; three outer sums of a linear map."""
    parts = []
    for axis, length in enumerate(shape):
        offsets = torch.arange(length, device=row.device, dtype=row.dtype) - (length - 1) / 2
        view = [-1, 1, 1, 1]
        view[axis + 1] = length
        parts.append((row[:, axis, None] * offsets).view(view))
    return parts[0] + (parts[1] + parts[2])


def _interpolate(volumes: Tensor, low: list[Tensor], fractions: list[Tensor]) -> Tensor:
    """Trilinear interpolation by eight gathers; ``index_select`` is the fastest of torch's gathers on a CPU."""
    n, x, y, z = volumes.shape
    flat = volumes.reshape(-1)
    # float32 counts exactly up to 2^24, enough for the voxels of one volume; where that volume starts is added later.
    index = low[0].mul_(y).add_(low[1]).mul_(z).add_(low[2]).long()
    index += torch.arange(n, device=volumes.device).view(-1, 1, 1, 1) * (x * y * z)
    # An axis of one voxel has no neighbour: its fraction is 0, and the voxel stands in for it.
    strides = [stride if length > 1 else 0 for stride, length in zip((y * z, z, 1), (x, y, z), strict=True)]

    def at(offset: int) -> Tensor:
        return flat.index_select(0, (index + offset if offset else index).view(-1)).view_as(volumes)

    def along_z(offset: int) -> Tensor:
        return torch.lerp(at(offset), at(offset + strides[2]), fractions[2])

    def along_yz(offset: int) -> Tensor:
        return torch.lerp(along_z(offset), along_z(offset + strides[1]), fractions[1])

    return torch.lerp(along_yz(0), along_yz(strides[0]), fractions[0])
