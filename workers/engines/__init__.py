"""Engines: one per loaded model and variant; each runs the requests of all clients in shared batches.

An engine's `launch` starts one call on the device and `collect` returns what it brought; CPU engines do all work in
`launch`. A call is bounded in time, so that cancellation, admission and the other models of the device are served
between calls. When there is not enough memory for a call, the engine runs fewer rows at once from then on and says
which requests have to begin again. Whatever else a call raises may have left its state half written: whoever runs the
engine then takes all its requests out, and finds the one that fails.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, TypeVar

from contracts.requests import Request

CALL_SECONDS = 0.02  # what a call may take on a CPU, as far as one step or one picture allows


class Score(NamedTuple):
    """A token's raw log-probability, and the likeliest tokens in its place with theirs, likeliest first."""

    logprob: float
    likeliest: list[tuple[int, float]]


@dataclass(frozen=True)
class Delta:
    """What a call brought for one text or one order of pictures, all of whole tokens and whole pictures; or what a
    classifier says of one text, `choice` being its place in the request."""

    job_id: str
    choice: int = 0
    tokens: list[int] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)  # of the tokens, where asked for
    prompt_scores: list[Score] = field(default_factory=list)  # of the next tokens of the prompt, from its second on
    beam_score: float | None = None  # of a text found by beams, which comes whole: what they are ranked by
    pictures: list[bytes] = field(default_factory=list)  # pixels, uint8, height x width x channels
    logits: list[float] = field(default_factory=list)  # fp32, by label


@dataclass(frozen=True)
class Done:
    """A choice has ended. By "stop", its last token is the one that ended it, which is no part of the text."""

    job_id: str
    finish_reason: Literal["stop", "length"]
    choice: int = 0


@dataclass(frozen=True)
class Failed:
    """The request failed alone. `record` is its error's (contracts.errors)."""

    job_id: str
    record: str


@dataclass(frozen=True)
class Evicted:
    """There was no memory for so many requests at once: this one is out. It can be added again, and begins anew."""

    job_id: str


Event = Delta | Done | Failed | Evicted


@dataclass(frozen=True)
class Call:
    """One finished call: its events in order, and what it cost."""

    events: list[Event]
    batch_size: int  # rows, pictures or texts that were run together for requests
    units: int  # tokens or pictures made, texts classified
    seconds: float


Handle = TypeVar("Handle")


class Engine(Protocol[Handle]):
    """`Handle` is whatever a call in flight needs; for engines that do all work in `launch` it is the finished Call."""

    @property
    def capacity(self) -> int:
        """How many requests it may hold; fewer for a while after memory ran out."""

    @property
    def jobs(self) -> list[str]:
        """The requests that it holds."""

    @property
    def free(self) -> int:
        """How many more requests of the smallest kind can be added now."""

    @property
    def busy(self) -> bool:
        """Whether a call would do anything."""

    def fits(self, request: Request) -> bool:
        """Whether this request can be added now. One that never can is let in, to be refused by name."""

    def add(self, job_id: str, request: Request) -> None:
        """Take a request in; it takes part from the next call on. Raises InvalidRequest if it cannot be run."""

    def remove(self, job_id: str, choice: int | None = None) -> None:
        """Forget a request, or one choice of it; what it held is free at the next call. Unknown ids are ignored."""

    def launch(self) -> Handle:
        """Start one call."""

    def collect(self, handle: Handle) -> Call:
        """Wait for a call to end."""
