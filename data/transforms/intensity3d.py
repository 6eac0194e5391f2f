"""Random noise and gamma of volumes, and their z-normalisation, as TorchIO's."""

import math

import torch
from torch import Tensor

from data.transforms.affine3d import uniform

LARGEST_NOISE = 0.25
LOG_GAMMA = 0.3


def draw_noise(volumes: Tensor, generator: torch.Generator) -> Tensor:
    """Noise N(0, σ²) of the volumes' shape, N X Y Z, with σ U(0, 0.25) per volume."""
    sigma = uniform((len(volumes), 1, 1, 1), 0.0, LARGEST_NOISE, generator)
    return torch.randn(volumes.shape, generator=generator, device=generator.device).mul_(sigma)


def draw_gamma(n: int, generator: torch.Generator) -> Tensor:
    """N: exp(U(±0.3)), per volume."""
    return uniform((n,), -LOG_GAMMA, LOG_GAMMA, generator).exp_()


def apply_gamma(volumes: Tensor, gamma: Tensor) -> Tensor:
    """N X Y Z, each raised to its γ (N) with the sign kept."""
    # In a third of the time that a power takes on CPUs. The logarithm of 0 is −∞, and back again.
    return volumes.abs().log_().mul_(gamma.view(-1, 1, 1, 1)).exp_().copysign_(volumes)


def z_normalize(volumes: Tensor) -> Tensor:
    """N X Y Z with mean 0 and standard deviation 1 (unbiased) each; a constant volume becomes 0.

    TorchIO refuses a constant volume; one such crop must not end a run.
    """
    mean = volumes.mean(dim=(1, 2, 3), keepdim=True)
    centred = volumes - mean
    # Faster than torch.std, and as exact, since the mean is already taken off.
    norm = torch.linalg.vector_norm(centred, dim=(1, 2, 3), keepdim=True)
    std = norm / math.sqrt(max(centred[0].numel() - 1, 1))
    # Rounding alone gives a constant volume some 1e-8 of its value as its standard deviation.
    return centred.div_(torch.where(std > 1e-6 * (mean.abs() + std), std, torch.ones_like(std)))
