"""What became of one request. All times are of time.perf_counter, in seconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from cli.bench.calls import Call


@dataclass(frozen=True, slots=True)
class Content:
    """What an answer holds."""

    digest: bytes  # equal for equal texts, pictures or labels
    pieces: tuple[float, ...] = ()  # when each piece of text came, of a stream
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    counted: Literal["usage", "pieces"] | None = None  # where the number of output tokens is from
    pictures: int = 0
    texts: int = 0


@dataclass(frozen=True, slots=True)
class Fault:
    kind: str  # errors of one kind are counted together
    message: str


@dataclass(frozen=True, slots=True)
class Outcome:
    call: Call
    due: float  # when it was to be sent; all latencies count from here
    sent: float  # when it was
    ended: float
    content: Content = field(default_factory=lambda: Content(b""))
    fault: Fault | None = None

    @property
    def end_to_end(self) -> float:
        return self.ended - self.due

    @property
    def time_to_first_token(self) -> float | None:
        return self.content.pieces[0] - self.due if self.content.pieces else None

    @property
    def time_per_output_token(self) -> float | None:
        """Behind the first one; None for a text of one token, or that was not streamed."""
        pieces, tokens = self.content.pieces, self.content.output_tokens
        if len(pieces) < 2 or tokens is None or tokens < 2:
            return None
        return (pieces[-1] - pieces[0]) / (tokens - 1)

    @property
    def gaps(self) -> list[float]:
        """Between pieces of text."""
        pieces = self.content.pieces
        return [after - before for before, after in pairwise(pieces)]
