"""Ways between two latents."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_NEARLY_PARALLEL = 1e-6  # sine of an angle; below it the weights lose their digits


def spherical(start: Tensor, end: Tensor, shares: Sequence[float]) -> Tensor:
    """Latents fp32 (len(shares), size) on the arc from `start`, at share 0, to `end`, at share 1; both fp32 (size,).

    Spherical (Shoemake, "Animating rotation with quaternion curves", 1985), since a normal latent is about as long as
    any other, and those of a straight line would be shorter. Computed in fp64, so that both ends come out exactly.
    """
    one, other = start.double(), end.double()
    cosine = one.dot(other) / (one.norm() * other.norm()).clamp_min(torch.finfo(torch.float64).tiny)
    angle = cosine.clamp(-1, 1).acos()
    share = torch.tensor(shares, dtype=torch.float64)[:, None]
    if angle.sin() < _NEARLY_PARALLEL:  # also opposite ones: the arc could go anywhere, the line cannot
        weights = (1 - share, share)
    else:
        weights = (((1 - share) * angle).sin() / angle.sin(), (share * angle).sin() / angle.sin())
    return (weights[0] * one + weights[1] * other).float()
