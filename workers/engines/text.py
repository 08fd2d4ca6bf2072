"""The text engine: continuous batching over the slots of any text backend.

A request enters and leaves between steps. Its prompt is read in chunks at fixed positions, all but the last token; that
one is the first to be decoded, so that every logit a token is drawn from comes from the same kind of step.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch

from contracts.errors import InvalidRequest
from contracts.requests import TextRequest
from models.runtimes import PREFILL_CHUNK, TextBackend, row_bucket
from models.sampling import BatchSampling, RowSampling, draw
from workers.engines import CALL_SECONDS, Call, Delta, Done, Event, Request

COLDEST = 1e-6  # below, only the likeliest token is drawn, and logits / temperature would leave fp32


@dataclass
class _Row:
    """One request in its slot. `position` tokens of prompt and output are in the slot; `token` is fed next."""

    job_id: str
    request: TextRequest
    position: int = 0
    output: list[int] = field(default_factory=list)
    reported: int = 0  # tokens of the output that earlier calls have reported

    @property
    def prefilled(self) -> bool:
        return self.position >= len(self.request.prompt_tokens) - 1

    @property
    def token(self) -> int:
        return self.output[-1] if self.output else self.request.prompt_tokens[-1]

    def next_chunk(self) -> list[int]:
        prompt = self.request.prompt_tokens[:-1]
        return list(prompt[self.position : self.position + PREFILL_CHUNK])

    def sampling(self) -> RowSampling:
        request = self.request
        temperature = request.temperature if request.temperature >= COLDEST else 0.0
        return RowSampling(temperature, request.top_k, request.top_p, request.seed, row=0)


class TextEngine:
    def __init__(
        self,
        backend: TextBackend,
        end_token: int | None,
        context_tokens: int | None,
        call_seconds: float = CALL_SECONDS,
    ) -> None:
        self._backend = backend
        self._end_token = end_token
        self._context_tokens = context_tokens
        self._call_seconds = call_seconds
        self._slots: list[_Row | None] = [None] * backend.slots  # a request is in exactly one slot
        self._sampling: BatchSampling | None = None  # of the decoding rows; None after any of them changed
        self._chunk_seconds = 0.0  # what one prefill chunk took lately

    @property
    def capacity(self) -> int:
        return len(self._slots)

    @property
    def free(self) -> int:
        return self._slots.count(None)

    @property
    def busy(self) -> bool:
        return any(self._slots)

    def add(self, job_id: str, request: Request) -> None:
        if not isinstance(request, TextRequest):
            raise InvalidRequest(f"A {request.task} request cannot be run by a text model.")
        total = len(request.prompt_tokens) + request.max_tokens
        if self._context_tokens is not None and total > self._context_tokens:
            raise InvalidRequest(f"{total} tokens do not fit into the context of {self._context_tokens}.")
        slot = self._slots.index(None)  # the lowest free one keeps the stepped rows few
        self._backend.reset(slot)
        self._slots[slot] = _Row(job_id, request)
        self._sampling = None

    def remove(self, job_id: str) -> None:
        for slot, row in enumerate(self._slots):
            if row is not None and row.job_id == job_id:
                self._slots[slot] = None
                self._sampling = None

    def launch(self) -> Call:
        started = time.perf_counter()
        self._prefill()
        events: list[Event] = []
        steps = units = 0
        while batch_size := self._decode():
            steps, units = steps + 1, units + batch_size
            ended = self._ended()
            events += ended
            # Requests wait to enter a freed slot, and the call has a bound.
            if ended or time.perf_counter() - started > self._call_seconds:
                break
        return Call(self._report() + events, -(-units // max(steps, 1)), units, time.perf_counter() - started)

    def collect(self, handle: Call) -> Call:
        for event in handle.events:
            if isinstance(event, Done):
                self.remove(event.job_id)
        return handle

    def _prefill(self) -> None:
        """One chunk for each request that is still being read, as many requests as the call's time allows."""
        reading = [(slot, row) for slot, row in enumerate(self._slots) if row is not None and not row.prefilled]
        if not reading:
            return
        affordable = int(self._call_seconds / self._chunk_seconds) if self._chunk_seconds else 1
        reading = reading[: max(1, affordable)]
        started = time.perf_counter()
        self._backend.prefill([(slot, row.position, row.next_chunk()) for slot, row in reading])
        self._chunk_seconds = (time.perf_counter() - started) / len(reading)
        for _, row in reading:
            row.position += len(row.next_chunk())
        self._sampling = None

    def _decode(self) -> int:
        """One step of every request whose prompt has been read. Returns how many those are."""
        active = [row is not None and row.prefilled and not self._finished(row) for row in self._slots]
        if not any(active):
            return 0
        highest = max(slot for slot, is_active in enumerate(active) if is_active) + 1
        rows = self._slots[: row_bucket(highest, len(self._slots), self._backend.smallest_rows)]
        active = active[: len(rows)]
        tokens = [row.token if row and on else 0 for row, on in zip(rows, active, strict=True)]
        logits = self._backend.decode(tokens, [row.position if row else 0 for row in rows], active)
        for row, on, token in zip(rows, active, self._draw(rows, active, logits), strict=True):
            if row is not None and on:
                row.position += 1
                row.output.append(token)
        return sum(active)

    def _draw(self, rows: list[_Row | None], active: list[bool], logits: torch.Tensor) -> list[int]:
        if self._sampling is None or len(self._sampling.greedy) != len(rows):
            settings = [row.sampling() if row and on else None for row, on in zip(rows, active, strict=True)]
            self._sampling = BatchSampling(settings, logits.device)
        drawn = draw(logits, self._sampling, [len(row.output) if row else 0 for row in rows])
        tokens: list[int] = drawn.tolist()
        return tokens

    def _finished(self, row: _Row) -> bool:
        return len(row.output) >= row.request.max_tokens or bool(row.output and row.output[-1] == self._end_token)

    def _ended(self) -> list[Done]:
        return [
            Done(row.job_id, "stop" if row.output[-1] == self._end_token else "length")
            for row in self._slots
            if row is not None and row.output and self._finished(row)
        ]

    def _report(self) -> list[Event]:
        """The tokens that this call made, per request."""
        deltas: list[Event] = []
        for row in self._slots:
            if row is not None and len(row.output) > row.reported:
                deltas.append(Delta(row.job_id, tokens=row.output[row.reported :]))
                row.reported = len(row.output)
        return deltas
