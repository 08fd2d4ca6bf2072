"""DCGAN (Radford, Metz and Chintala, 2015): a generator and its mirror image.

Both are plain `nn.Sequential`s, so that a state dict saved elsewhere with keys `0.weight`, `1.weight`, ... fits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from contracts.sizes import check_sizes


@dataclass(frozen=True)
class DcganConfig:
    size: int = 64  # pixels, a power of two from 8 on
    latent: int = 128
    width: int = 64  # channels of the largest feature map
    channels: int = 3

    def __post_init__(self) -> None:
        """Raises ValueError for what is no size: this comes from files."""
        check_sizes(size=self.size, latent=self.latent, width=self.width)
        if self.size < 8 or self.size & (self.size - 1):
            raise ValueError(f"size is {self.size}; it must be a power of two, 8 or more")
        if self.channels not in (1, 3):
            raise ValueError(f"channels is {self.channels!r}; a picture has 1 or 3")

    @property
    def feature_channels(self) -> list[int]:
        """Channels from the 4x4 feature map to the largest: 512, 256, 128, 64 for 64 pixels."""
        doublings = self.size.bit_length() - 4
        return [self.width << power for power in range(doublings, -1, -1)]

    @classmethod
    def from_manifest(cls, config: dict[str, Any]) -> DcganConfig:
        return cls(**config)


def generator(config: DcganConfig) -> nn.Sequential:
    """Latents (B, latent, 1, 1) -> pictures (B, channels, size, size) in [-1, 1]."""
    layers: list[nn.Module] = []
    before = config.latent
    for index, channels in enumerate(config.feature_channels):
        stride, padding = (1, 0) if index == 0 else (2, 1)
        layers += [
            nn.ConvTranspose2d(before, channels, 4, stride, padding, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        ]
        before = channels
    return nn.Sequential(*layers, nn.ConvTranspose2d(before, config.channels, 4, 2, 1, bias=False), nn.Tanh())


def discriminator(config: DcganConfig, *, batch_norm: bool = True) -> nn.Sequential:
    """Pictures (B, channels, size, size) -> logit of being real (B, 1). Without batch norm convolutions have biases."""
    layers: list[nn.Module] = []
    before = config.channels
    for index, channels in enumerate(reversed(config.feature_channels)):
        layers.append(nn.Conv2d(before, channels, 4, 2, 1, bias=not batch_norm))
        if index and batch_norm:
            layers.append(nn.BatchNorm2d(channels))
        layers.append(nn.LeakyReLU(0.2, inplace=True))
        before = channels
    return nn.Sequential(*layers, nn.Conv2d(before, 1, 4, 1, 0, bias=False), nn.Flatten())


def fold_batch_norm(layers: nn.Sequential) -> nn.Sequential:
    """A generator whose batch norms have become scales and biases of the convolutions before them."""
    folded: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d) and isinstance(folded[-1], nn.ConvTranspose2d):
            folded[-1] = nn.utils.fuse_conv_bn_eval(folded[-1], layer, transpose=True)
        else:
            folded.append(layer)
    return nn.Sequential(*folded).eval().requires_grad_(False)


def to_pixels(pictures: Tensor) -> Tensor:
    """Pictures (B, channels, H, W) in [-1, 1] -> uint8 (B, H, W, channels)."""
    return ((pictures + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
