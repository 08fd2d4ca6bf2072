"""Pictures on a GPU: one CUDA graph for each number of pictures, from latents to pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from models.runtimes.cuda_graphs import Recorder, Work
from models.runtimes.host_copies import Inbox, Outbox


@dataclass(frozen=True)
class _Drawing:
    """Calls of one number of pictures."""

    latents: Inbox
    pixels: Outbox
    run: Work


class GraphPainter:
    def __init__(
        self,
        draw: Callable[[Tensor], Tensor],
        recorder: Recorder,
        device: torch.device,
        latent: int,
        shape: tuple[int, int, int],
    ) -> None:
        """`draw` takes latents (B, latent) fp32 and gives pixels uint8 (B, *shape), both on the device."""
        self._draw = draw
        self._recorder = recorder
        self._device = device
        self._latent = latent
        self._shape = shape
        self._drawings: dict[int, _Drawing] = {}  # by number of pictures; made when first asked for

    @torch.inference_mode()
    def launch(self, latents: Tensor) -> Callable[[], Tensor]:
        """Latents (B, latent) on the CPU. What it returns waits for their pixels uint8 (B, *shape), which lie in memory
        that the next call with as many overwrites."""
        count = len(latents)
        if count not in self._drawings:
            self._drawings[count] = self._record(count)
        drawing = self._drawings[count]
        drawing.latents.open()[:] = latents.numpy()
        drawing.latents.send()
        drawing.run()
        drawing.pixels.send()
        return lambda: torch.from_numpy(drawing.pixels.read())

    def _record(self, count: int) -> _Drawing:
        latents = Inbox((count, self._latent), torch.float32, self._device)
        pixels = Outbox((count, *self._shape), torch.uint8, self._device)

        def work() -> None:
            pixels.tensor.copy_(self._draw(latents.tensor))

        return _Drawing(latents, pixels, self._recorder.record(work))
