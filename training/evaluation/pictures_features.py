"""Features of pictures, computed here: a stand-in for those of a network that was trained on photographs.

Three groups: colours (means and spreads of a grid of cells), edges (histograms of oriented gradients; Dalal and Triggs,
2005), and textures (means and spreads of what convolutions with fixed random weights, four deep, answer). Nothing is
learnt and nothing is downloaded, so the same pictures have the same features everywhere; what they mean nobody has
taught them. Distances between them must not be called FID or KID, whose features are Inception's.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from training.progress import progress_bar

VERSION = "kamishibai-1"  # of this file's features; numbers of other versions do not compare
SIZE = 64  # pixels of a side that all pictures are brought to
CELLS = 4  # on a side, for colours and edges
ORIENTATIONS = 8
CHANNELS = (16, 32, 64, 64)
SEED = 20151119
PICTURES_AT_ONCE = 64

Pixels = NDArray[np.uint8]
Features = NDArray[np.float64]


class Scale:
    """Brings features to mean 0 and spread 1 over the real pictures, and each group to the same weight.

    Far beyond what real pictures have, features grow with the logarithm (arsinh), or the few that are furthest off
    would drown all others in the third power of the kernel.
    """

    def __init__(self, real: Features) -> None:
        self._mean = real.mean(0)
        spread = real.std(0)
        self._spread = np.maximum(spread, 1e-3 * max(float(spread.max()), 1e-12))  # of what never changes, nothing
        groups = (*_sizes(), real.shape[1] - sum(_sizes()))
        self._weight = np.concatenate([np.full(size, 1 / np.sqrt(len(groups) * size)) for size in groups])
        self._length = np.sqrt((self(real)[:, : sum(_sizes())] ** 2).sum(1).mean())

    def __call__(self, features: Features) -> Features:
        """A real picture's have a length of a little under 1."""
        scaled: Features = np.arcsinh((features - self._mean) / self._spread) * self._weight
        return scaled

    def layout(self, features: Features) -> Features:
        """Colours and edges alone: what is where, however it is painted. A real picture's have length 1 on average."""
        found: Features = self(features)[:, : sum(_sizes())] / self._length
        return found


@torch.no_grad()
def features_of(pixels: Pixels, *, description: str = "", show_progress: bool = False) -> Features:
    """Pictures (count, height, width, 3) -> features (count, width), computed on the CPU."""
    weights = _random_weights()
    found = []
    with progress_bar(len(pixels), description, show=show_progress, unit="picture") as bar:
        for begin in range(0, len(pixels), PICTURES_AT_ONCE):
            batch = torch.from_numpy(pixels[begin : begin + PICTURES_AT_ONCE]).permute(0, 3, 1, 2).float() / 127.5 - 1
            if batch.shape[-2:] != (SIZE, SIZE):
                batch = F.interpolate(batch, (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
            found.append(torch.cat([_colours(batch), _edges(batch), _textures(batch, weights)], 1).double().numpy())
            bar.update(len(batch))
    return np.concatenate(found)


def _sizes() -> tuple[int, int]:
    """Of the groups before the last."""
    return 2 * 3 * CELLS * CELLS, ORIENTATIONS * CELLS * CELLS


def _colours(pictures: Tensor) -> Tensor:
    """(B, 3, H, W) -> mean and spread of each cell and colour (B, 96)."""
    mean = F.adaptive_avg_pool2d(pictures, CELLS)
    square = F.adaptive_avg_pool2d(pictures.square(), CELLS)
    return torch.cat([mean, (square - mean.square()).clamp_min(0).sqrt()], 1).flatten(1)


def _edges(pictures: Tensor) -> Tensor:
    """(B, 3, H, W) -> strength of the edges of each direction in each cell (B, 128)."""
    grey = pictures.mean(1, keepdim=True)
    across = grey[..., 1:-1, 2:] - grey[..., 1:-1, :-2]
    down = grey[..., 2:, 1:-1] - grey[..., :-2, 1:-1]
    strength = torch.hypot(across, down)
    # A gradient and its opposite are one direction; each counts for the two bins that it lies between.
    place = torch.remainder(torch.atan2(down, across) / torch.pi, 1.0) * ORIENTATIONS
    bins = torch.arange(ORIENTATIONS).view(1, -1, 1, 1)
    apart = (place - bins).abs()
    share = (1 - torch.minimum(apart, ORIENTATIONS - apart)).clamp_min(0)
    return F.adaptive_avg_pool2d(strength * share, CELLS).sqrt().flatten(1)


def _textures(pictures: Tensor, weights: list[Tensor]) -> Tensor:
    """(B, 3, H, W) -> mean and spread of each channel after each layer (B, 352)."""
    found = []
    values = pictures
    for weight in weights:
        values = F.relu(F.conv2d(values, weight, padding=1))
        found += [values.mean((2, 3)), values.std((2, 3))]
        values = F.avg_pool2d(values, 2)
    return torch.cat(found, 1)


def _random_weights() -> list[Tensor]:
    """Of variance 2 / inputs (He et al., 2015), which keeps the size of what comes out."""
    random = np.random.RandomState(SEED)  # whose stream will never change
    weights = []
    for before, channels in zip((3, *CHANNELS), CHANNELS, strict=False):
        drawn = random.standard_normal((channels, before, 3, 3)) * np.sqrt(2 / (9 * before))
        weights.append(torch.from_numpy(drawn).float())
    return weights
