"""Engines: one per loaded model and variant; each runs the requests of all clients in shared batches.

An engine's `launch` starts one call on the device and `collect` returns what it brought; CPU engines do all work in
`launch`. A call is bounded in time, so that cancellation, admission and the other models of the device are served
between calls. A request that fails, fails alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

from contracts.requests import ImageRequest, TextRequest

CALL_SECONDS = 0.02  # what a call may take on a CPU, as far as one step or one picture allows

Request = TextRequest | ImageRequest


@dataclass(frozen=True)
class Delta:
    """What a call brought for one job: token ids, or pixels (uint8, height x width x channels) of whole pictures."""

    job_id: str
    tokens: list[int] = field(default_factory=list)
    pictures: list[bytes] = field(default_factory=list)


@dataclass(frozen=True)
class Done:
    job_id: str
    finish_reason: Literal["stop", "length"]


@dataclass(frozen=True)
class Failed:
    job_id: str
    message: str


Event = Delta | Done | Failed


@dataclass(frozen=True)
class Call:
    """One finished call: its events in order, and what it cost."""

    events: list[Event]
    batch_size: int  # rows or pictures that were run together for requests
    units: int  # tokens or pictures made
    seconds: float


Handle = TypeVar("Handle")


class Engine(Protocol[Handle]):
    """`Handle` is whatever a call in flight needs; for engines that do all work in `launch` it is the finished Call."""

    @property
    def capacity(self) -> int:
        """How many requests it may hold."""

    @property
    def free(self) -> int:
        """How many more requests can be added now."""

    @property
    def busy(self) -> bool:
        """Whether a call would do anything."""

    def add(self, job_id: str, request: Request) -> None:
        """Take a request in; it takes part from the next call on. Raises InvalidRequest if it cannot be run."""

    def remove(self, job_id: str) -> None:
        """Forget a request; what it held is free at the next call. Unknown ids are ignored."""

    def launch(self) -> Handle:
        """Start one call."""

    def collect(self, handle: Handle) -> Call:
        """Wait for a call to end."""
