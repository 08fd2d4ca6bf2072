"""An engine whose work a GPU does beside that of other engines."""

from __future__ import annotations

from typing import Generic, TypeVar

import torch

from contracts.requests import Request
from workers.engines import Call, Engine

Handle = TypeVar("Handle")


class OnStream(Generic[Handle]):
    """All work of an engine goes to a stream of its own: in order by itself, at the same time as that of others."""

    def __init__(self, engine: Engine[Handle], stream: torch.cuda.Stream | None) -> None:
        """`stream` is the one that the engine's backend was made on; None is for what has no streams."""
        self._engine = engine
        self._stream = stream

    @property
    def capacity(self) -> int:
        return self._engine.capacity

    @property
    def jobs(self) -> list[str]:
        return self._engine.jobs

    @property
    def free(self) -> int:
        return self._engine.free

    @property
    def busy(self) -> bool:
        return self._engine.busy

    def fits(self, request: Request) -> bool:
        return self._engine.fits(request)

    def add(self, job_id: str, request: Request) -> None:
        with torch.cuda.stream(self._stream):
            self._engine.add(job_id, request)

    def remove(self, job_id: str, choice: int | None = None) -> None:
        with torch.cuda.stream(self._stream):
            self._engine.remove(job_id, choice)

    def launch(self) -> Handle:
        with torch.cuda.stream(self._stream):
            return self._engine.launch()

    def collect(self, handle: Handle) -> Call:
        with torch.cuda.stream(self._stream):
            return self._engine.collect(handle)
