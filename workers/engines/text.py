"""The text engine: continuous batching over the slots of any text backend.

A request enters and leaves between steps; each of its choices has a slot. Its prompt is read once, in chunks at fixed
positions, all but the last token; that one is the first to be decoded, so that every logit a token is drawn from comes
from the same kind of step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from contracts.errors import InvalidRequest
from contracts.requests import TextRequest
from models.runtimes import PREFILL_CHUNK, Chunk, TextBackend, row_bucket
from models.sampling import BatchSampling, RowSampling, RowState, draw, log_probabilities
from workers.engines import CALL_SECONDS, Call, Delta, Done, Event, Request, Score


@dataclass
class _Row:
    """One choice in its slot. `position` tokens of prompt and output are in the slot; `token` is fed next."""

    job_id: str
    choice: int
    request: TextRequest
    ending_tokens: frozenset[int]
    position: int = 0
    output: list[int] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)  # of the output
    prompt_scores: list[Score] = field(default_factory=list)
    reported: int = 0  # tokens of the output that earlier calls have reported
    followers: list[int] = field(default_factory=list)  # slots of the other choices, while they wait for the prompt
    following: bool = False

    @property
    def prefilled(self) -> bool:
        return self.position >= len(self.request.prompt_tokens) - 1

    @property
    def token(self) -> int:
        return self.output[-1] if self.output else self.request.prompt_tokens[-1]

    @property
    def scores_prompt(self) -> bool:
        """The first choice scores the prompt for all of them."""
        return self.request.echo and self.request.logprobs is not None and self.choice == 0

    @property
    def finish_reason(self) -> Literal["stop", "length"] | None:
        """None while it goes on."""
        if self.output and self.output[-1] in self.ending_tokens:
            return "stop"
        return "length" if self.prefilled and len(self.output) >= self.request.max_tokens else None

    def next_chunk(self, slot: int) -> Chunk:
        end = min(self.position + PREFILL_CHUNK, len(self.request.prompt_tokens) - 1)
        tokens = list(self.request.prompt_tokens[self.position : end])
        return Chunk(slot, self.position, tokens, self.scores_prompt)

    def state(self) -> RowState:
        request = self.request
        sampling = RowSampling(
            temperature=request.temperature,
            top_k=request.top_k,
            top_p=request.top_p,
            min_p=request.min_p,
            repetition_penalty=request.repetition_penalty,
            presence_penalty=request.presence_penalty,
            frequency_penalty=request.frequency_penalty,
            no_repeat_ngram_size=request.no_repeat_ngram_size,
            logit_bias=request.logit_bias,
            min_tokens=request.min_tokens,
            ending_tokens=tuple(sorted(self.ending_tokens)),
            seed=request.seed,
            row=self.choice,
        )
        return RowState(sampling, request.prompt_tokens, self.output)


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
        self._slots: list[_Row | None] = [None] * backend.slots  # a choice is in exactly one slot
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

    def fits(self, request: Request) -> bool:
        choices = request.n if isinstance(request, TextRequest) else 1
        return choices <= self.free or choices > self.capacity

    def add(self, job_id: str, request: Request) -> None:
        if not isinstance(request, TextRequest):
            raise InvalidRequest(f"A {request.task} request cannot be run by a text model.")
        self._check(request)
        ending_tokens = request.ending_tokens(self._end_token)
        free = [slot for slot, row in enumerate(self._slots) if row is None]  # the lowest keep the stepped rows few
        slots = free[: request.n]
        for choice, slot in enumerate(slots):
            self._backend.reset(slot)
            self._slots[slot] = _Row(job_id, choice, request, ending_tokens, following=choice > 0)
        first = self._slots[slots[0]]
        if first is not None:
            first.followers = slots[1:]
            self._let_go(slots[0], first)
        self._sampling = None

    def remove(self, job_id: str, choice: int | None = None) -> None:
        self._clear(lambda row: row.job_id == job_id and choice in (None, row.choice))

    def launch(self) -> Call:
        started = time.perf_counter()
        self._prefill()
        steps = units = 0
        while batch_size := self._decode():
            steps, units = steps + 1, units + batch_size
            # Requests wait to enter a freed slot, and the call has a bound.
            if self._ended() or time.perf_counter() - started > self._call_seconds:
                break
        events = [*self._report(), *self._ended()]
        return Call(events, -(-units // max(steps, 1)), units, time.perf_counter() - started)

    def collect(self, handle: Call) -> Call:
        ended = {(event.job_id, event.choice) for event in handle.events if isinstance(event, Done)}
        if ended:
            self._clear(lambda row: (row.job_id, row.choice) in ended)
        return handle

    def _check(self, request: TextRequest) -> None:
        total = len(request.prompt_tokens) + request.max_tokens
        if self._context_tokens is not None and total > self._context_tokens:
            raise InvalidRequest(f"{total} tokens do not fit into the context of {self._context_tokens}.")
        if request.n > self.capacity:
            raise InvalidRequest(f"'n' is {request.n}, but this worker's cache has room for {self.capacity} texts.")
        named = [*request.prompt_tokens, *request.stop_token_ids, *(token for token, _ in request.logit_bias)]
        if (largest := max(named)) >= self._backend.vocabulary_size:
            raise InvalidRequest(f"Token {largest} is not among the model's {self._backend.vocabulary_size}.")

    def _clear(self, leaves: Callable[[_Row], bool]) -> None:
        for slot, row in enumerate(self._slots):
            if row is not None and leaves(row):
                self._slots[slot] = None
                self._sampling = None

    def _prefill(self) -> None:
        """One chunk for each prompt that is still being read, as many prompts as the call's time allows."""
        reading = [
            (slot, row) for slot, row in enumerate(self._slots) if row and not row.prefilled and not row.following
        ]
        if not reading:
            return
        affordable = int(self._call_seconds / self._chunk_seconds) if self._chunk_seconds else 1
        reading = reading[: max(1, affordable)]
        chunks = [row.next_chunk(slot) for slot, row in reading]
        started = time.perf_counter()
        logits = self._backend.prefill(chunks)
        self._chunk_seconds = (time.perf_counter() - started) / len(reading)
        for (slot, row), chunk, scored in zip(reading, chunks, logits, strict=True):
            row.position += len(chunk.tokens)
            if scored is not None:
                following = row.request.prompt_tokens[chunk.start + 1 : row.position + 1]
                row.prompt_scores += _scores(scored, torch.tensor(following), row.request.logprobs or 0)
            self._let_go(slot, row)
        self._sampling = None

    def _let_go(self, slot: int, row: _Row) -> None:
        """Once the prompt has been read, the other choices get a copy and go their own ways."""
        if not row.prefilled or not row.followers:
            return
        if row.position:
            self._backend.copy(slot, row.followers)
        for follower in row.followers:
            if other := self._slots[follower]:
                other.position, other.following = row.position, False
        row.followers = []

    def _decode(self) -> int:
        """One step of every text whose prompt has been read. Returns how many those are."""
        active = [row is not None and row.prefilled and row.finish_reason is None for row in self._slots]
        if not any(active):
            return 0
        highest = max(slot for slot, is_active in enumerate(active) if is_active) + 1
        rows = self._slots[: row_bucket(highest, len(self._slots), self._backend.smallest_rows)]
        active = active[: len(rows)]
        fed = [row.token if row and on else 0 for row, on in zip(rows, active, strict=True)]
        logits = self._backend.decode(fed, [row.position if row else 0 for row in rows], active)
        if self._sampling is None or self._sampling.rows != len(rows):
            states = [row.state() if row and on else None for row, on in zip(rows, active, strict=True)]
            self._sampling = BatchSampling(states, logits.shape[-1], logits.device)
        drawn = draw(logits, self._sampling)
        going = [row for row, on in zip(rows, active, strict=True) if row and on]
        indices = [index for index, on in enumerate(active) if on]
        tokens: list[int] = drawn.tolist()
        for index, row in zip(indices, going, strict=True):
            row.position += 1
            row.output.append(tokens[index])
        self._score(logits, drawn, indices, going)
        return len(going)

    def _score(self, logits: Tensor, tokens: Tensor, indices: list[int], going: list[_Row]) -> None:
        counts = [row.request.logprobs for row in going]
        if all(count is None for count in counts):
            return
        scores = _scores(logits, tokens, max(count or 0 for count in counts))
        for index, row, count in zip(indices, going, counts, strict=True):
            if count is not None:
                row.scores.append(Score(scores[index].logprob, scores[index].likeliest[:count]))

    def _ended(self) -> list[Done]:
        return [Done(row.job_id, row.finish_reason, row.choice) for row in self._slots if row and row.finish_reason]

    def _report(self) -> list[Event]:
        """The tokens that this call made, per choice."""
        deltas: list[Event] = []
        for row in self._slots:
            if row is not None and (len(row.output) > row.reported or row.prompt_scores):
                tokens, scores = row.output[row.reported :], row.scores
                deltas.append(Delta(row.job_id, row.choice, tokens, scores, row.prompt_scores))
                row.reported, row.scores, row.prompt_scores = len(row.output), [], []
        return deltas


def _scores(logits: Tensor, tokens: Tensor, count: int) -> list[Score]:
    """Scores of tokens (rows,) under logits (rows, vocabulary)."""
    own, likeliest, values = log_probabilities(logits, tokens.to(logits.device), count)
    return [
        Score(logprob, list(zip(ids, logprobs, strict=True)))
        for logprob, ids, logprobs in zip(own.tolist(), likeliest.tolist(), values.tolist(), strict=True)
    ]
