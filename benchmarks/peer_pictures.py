"""What both peers of `pictures.py` do with a request: the generator that people freeze, and Pillow."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import torch
from PIL import Image


class Painter:
    def __init__(self, generator: str, latent: int) -> None:
        self._generator = torch.jit.load(generator)  # noqa: TID251 - what pictures.py has just written
        self._latent = latent

    @torch.inference_mode()
    def draw(self, orders: Sequence[tuple[int, int]]) -> Sequence[torch.Tensor]:
        """Orders (seed, n) -> for each, pixels uint8 (n, height, width, channels)."""
        noise = [
            torch.randn(n, self._latent, 1, 1, generator=torch.Generator().manual_seed(seed)) for seed, n in orders
        ]
        pictures = self._generator(torch.cat(noise))
        pixels = ((pictures + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        parts: Sequence[torch.Tensor] = pixels.split([n for _, n in orders])
        return parts

    def _noise(self, seed: int, n: int) -> torch.Tensor:
        return torch.randn(n, self._latent, generator=torch.Generator().manual_seed(seed))


def png_base64(pixels: torch.Tensor) -> list[str]:
    files = []
    for picture in pixels.numpy():
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG", compress_level=1)
        files.append(base64.b64encode(file.getvalue()).decode())
    return files
