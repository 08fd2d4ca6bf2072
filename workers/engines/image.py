"""The image engine: dynamic batching. Every call draws the next pictures of whoever waits, a power of two together."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from contracts.errors import EngineFailed, InvalidRequest
from contracts.requests import ImageRequest, Request
from models.interpolation import spherical
from models.noise import latents
from models.runtimes import ImageBackend, LaunchingImageBackend
from workers.engines import CALL_SECONDS, Call, Delta, Done, Event, Failed
from workers.engines.memory import Allowance, out_of_memory

MOST_REQUESTS = 64
MOST_PICTURES = 64  # in one call
FEWEST_PICTURES = 8  # that a call has room for, however slow it is: 8 take hardly twice as long as 1


@dataclass
class _Order:
    """One request; pictures up to `drawn` have been made."""

    job_id: str
    request: ImageRequest
    drawn: int = 0


@dataclass(frozen=True)
class Ahead:
    """A call whose pictures a device is drawing. `land` waits for their pixels, and those of the padding."""

    started: float
    batch: list[tuple[_Order, range]]
    count: int
    land: Callable[[], torch.Tensor]


class ImageEngine:
    def __init__(self, backend: ImageBackend, call_seconds: float = CALL_SECONDS) -> None:
        self._backend = backend
        self._launching = backend if isinstance(backend, LaunchingImageBackend) else None
        self._call_seconds = call_seconds
        self._orders: dict[str, _Order] = {}  # whoever has waited longest comes first
        self._picture_seconds = 0.0  # what one picture took in the last call
        self._allowance = Allowance(MOST_PICTURES)

    @property
    def capacity(self) -> int:
        return MOST_REQUESTS

    @property
    def jobs(self) -> list[str]:
        return list(self._orders)

    @property
    def free(self) -> int:
        return MOST_REQUESTS - len(self._orders)

    @property
    def busy(self) -> bool:
        return bool(self._orders)

    def fits(self, request: Request) -> bool:
        return self.free > 0

    def add(self, job_id: str, request: Request) -> None:
        if not isinstance(request, ImageRequest):
            raise InvalidRequest(f"A {request.task} request cannot be run by an image model.")
        for latent in request.latents or ():
            if len(latent) != self._backend.latent:
                raise InvalidRequest(
                    f"A latent has {len(latent)} numbers; give {self._backend.latent} for each picture."
                )
        self._orders[job_id] = _Order(job_id, request)

    def remove(self, job_id: str, choice: int | None = None) -> None:
        self._orders.pop(job_id, None)

    def launch(self) -> Call | Ahead:
        started = time.perf_counter()
        batch = self._next_batch()
        count = sum(len(pictures) for _, pictures in batch)
        try:
            noise = self._noise(batch, count)
            if self._launching:
                return Ahead(started, batch, count, self._launching.launch(noise))
            pixels = self._backend.draw(noise)
        except Exception as error:
            if not out_of_memory(error):
                raise
            return Call(self._make_room(batch, count, error), 0, 0, time.perf_counter() - started)
        return self._drawn(started, batch, count, pixels)

    def collect(self, handle: Call | Ahead) -> Call:
        if isinstance(handle, Call):
            return handle
        return self._drawn(handle.started, handle.batch, handle.count, handle.land())

    def _drawn(self, started: float, batch: list[tuple[_Order, range]], count: int, pixels: torch.Tensor) -> Call:
        self._allowance.count_call()
        seconds = time.perf_counter() - started
        self._picture_seconds = seconds / len(pixels)
        return Call(self._events(batch, pixels), count, count, seconds)

    def _next_batch(self) -> list[tuple[_Order, range]]:
        """The next pictures of those that have waited longest, as many as a call has time for."""
        room = self._allowance.rows
        if self._picture_seconds:
            affordable = max(FEWEST_PICTURES, int(self._call_seconds / self._picture_seconds))
            room = min(room, 1 << (affordable.bit_length() - 1))
        batch: list[tuple[_Order, range]] = []
        for order in self._orders.values():
            pictures = range(order.drawn, min(order.request.count, order.drawn + room))
            batch.append((order, pictures))
            room -= len(pictures)
            if not room:
                break
        return batch

    def _noise(self, batch: list[tuple[_Order, range]], count: int) -> torch.Tensor:
        """Latents of the batch's `count` pictures, and zeros up to a power of two."""
        noise = torch.zeros(1 << (count - 1).bit_length(), self._backend.latent)
        noise[:count] = torch.cat(
            [_latents(order.request, pictures, self._backend.latent) for order, pictures in batch]
        )
        return noise

    def _make_room(self, batch: list[tuple[_Order, range]], count: int, error: Exception) -> list[Event]:
        """There was no memory for `count` pictures: fewer come at once. Nothing has been drawn, so nothing is lost."""
        self._allowance.halve(1 << (count - 1).bit_length())
        if count > 1:
            return []
        ((order, _),) = batch
        del self._orders[order.job_id]
        failure = EngineFailed(f"There is not enough memory on the device to draw one picture ({error}).")
        return [Failed(order.job_id, failure.record())]

    def _events(self, batch: list[tuple[_Order, range]], pixels: torch.Tensor) -> list[Event]:
        events: list[Event] = []
        first = 0
        for order, pictures in batch:
            mine = pixels[first : first + len(pictures)]
            first += len(pictures)
            order.drawn = pictures.stop
            events.append(Delta(order.job_id, pictures=[picture.numpy().tobytes() for picture in mine]))
            del self._orders[order.job_id]
            if order.drawn == order.request.count:
                events.append(Done(order.job_id, "stop"))
            else:
                self._orders[order.job_id] = order  # behind the others, so that a large order starves none of them
        return events


def _latents(request: ImageRequest, pictures: range, size: int) -> torch.Tensor:
    """Of these pictures of a request; each depends on the request and its own number alone."""
    if request.latents is not None:
        return torch.tensor([request.latents[index] for index in pictures])
    if request.to_seed is not None:
        start, end = (latents(seed, [0], size, request.truncation)[0] for seed in (request.seed, request.to_seed))
        return spherical(start, end, [index / (request.count - 1) for index in pictures])
    return latents(request.seed, list(pictures), size, request.truncation)
