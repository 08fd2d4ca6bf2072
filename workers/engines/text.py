"""The text engine: continuous batching over the slots of any text backend.

A request enters and leaves between steps; each of its choices has a slot. Its prompt is read once, in chunks at fixed
positions, all but the last token; that one is the first to be decoded, so that every logit a token is drawn from comes
from the same kind of step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from contracts.errors import EngineFailed, InvalidRequest
from contracts.requests import Request, TextRequest
from models.beams import continuations
from models.runtimes import TextBackend, Written, row_bucket
from models.sampling import BatchSampling, draw, log_probabilities
from workers.engines import CALL_SECONDS, Call, Delta, Done, Event, Evicted, Failed, Score
from workers.engines.beams import BeamGroup
from workers.engines.memory import Allowance, out_of_memory
from workers.engines.rows import Row
from workers.engines.writing import Writing

_Fed = tuple[list[int], list[int], list[bool]]  # of the stepped slots: next tokens, positions, which are active

# Read in a call even if they take longer than it should: with one chunk a call, a large model's batch never fills.
FEWEST_CHUNKS = 4


@dataclass(frozen=True)
class Ahead:
    """A call whose steps a device is making. `land` waits for them and says how many tokens they brought."""

    started: float
    rows: list[Row | None]
    steps: int
    land: Callable[[], tuple[Written, int]]


class TextEngine:
    def __init__(
        self,
        backend: TextBackend,
        end_token: int | None,
        context_tokens: int | None,
        *,
        batch_invariant: bool = True,
        call_seconds: float = CALL_SECONDS,
    ) -> None:
        """`batch_invariant` is what the probe said of the backend; it decides how tokens are drawn."""
        self._backend = backend
        self._end_token = end_token
        self._context_tokens = context_tokens
        self._batch_invariant = batch_invariant
        # It inverts a CDF, which is for logits that are equal in every batch.
        self._writing = Writing(backend.writer) if backend.writer and batch_invariant else None
        self._call_seconds = call_seconds
        self._slots: list[Row | None] = [None] * backend.slots  # a choice, or a beam, is in exactly one slot
        self._allowance = Allowance(backend.slots)
        self._groups: dict[str, BeamGroup] = {}  # of the requests with beams
        self._sampling: BatchSampling | None = None  # of the decoding rows; None after any of them changed
        self._chunk_seconds = 0.0  # what one prefill chunk took lately
        self._spoilt: list[Event] = []  # failures of this call

    @property
    def capacity(self) -> int:
        return self._allowance.rows

    @property
    def jobs(self) -> list[str]:
        return list(dict.fromkeys(row.job_id for row in self._slots if row))

    @property
    def free(self) -> int:
        return max(0, self._allowance.rows - self._used)

    @property
    def _used(self) -> int:
        return len(self._slots) - self._slots.count(None)

    @property
    def busy(self) -> bool:
        return any(self._slots)

    def fits(self, request: Request) -> bool:
        rows = request.rows if isinstance(request, TextRequest) else 1
        return rows <= self.free or not self.busy or rows > len(self._slots)

    def add(self, job_id: str, request: Request) -> None:
        if not isinstance(request, TextRequest):
            raise InvalidRequest(f"A {request.task} request cannot be run by a text model.")
        self._check(request)
        ending_tokens = request.ending_tokens(self._end_token)
        free = [slot for slot, row in enumerate(self._slots) if row is None]  # the lowest keep the stepped rows few
        rows: dict[int, Row] = {}
        for choice, slot in enumerate(free[: request.rows]):
            self._backend.reset(slot)
            rows[slot] = self._slots[slot] = Row(job_id, choice, request, ending_tokens, idle=choice > 0)
        if request.num_beams > 1:
            self._groups[job_id] = BeamGroup(rows)
        else:
            slot, *followers = rows
            rows[slot].followers = followers
            self._let_go(slot, rows[slot])
        self._sampling = None

    def remove(self, job_id: str, choice: int | None = None) -> None:
        if choice is None:
            self._groups.pop(job_id, None)
        elif job_id in self._groups:
            return  # a choice of beams is known when they have all ended
        self._clear(lambda row: row.job_id == job_id and choice in (None, row.choice))

    def launch(self) -> Call | Ahead:
        started = time.perf_counter()
        self._spoilt = []
        try:
            self._prefill()
            call = self._launch_steps(started) or self._run(started)
        except Exception as error:
            if not out_of_memory(error):
                raise
            return Call([*self._spoilt, *self._make_room(error)], 0, 0, time.perf_counter() - started)
        self._allowance.count_call()
        return call

    def _launch_steps(self, started: float) -> Ahead | None:
        """Steps that a device makes by itself, if all texts are such that it can draw their tokens."""
        if not self._writing or not self._writing.launches:
            return None
        fed, going = self._following()
        if not any(going) or not all(map(self._writing.covers, filter(None, going))):
            return None
        steps = self._writing.affordable_steps(going, started + self._call_seconds - time.perf_counter())
        return Ahead(started, going, steps, self._writing.launch(going, *fed, steps))

    def _run(self, started: float) -> Call:
        """Of a call that began at `started`, as many steps as there is time for."""
        steps = units = 0
        until = started + self._call_seconds
        while True:
            made, tokens = self._decode(until)
            steps, units = steps + made, units + tokens
            # Requests wait to enter a freed slot, and the call has a bound.
            if not made or self._ended() or time.perf_counter() > until:
                break
        return self._made(steps, units, started)

    def _made(self, steps: int, units: int, started: float) -> Call:
        events = [*self._report(), *self._ended(), *self._spoilt]
        return Call(events, -(-units // max(steps, 1)), units, time.perf_counter() - started)

    def collect(self, handle: Call | Ahead) -> Call:
        if isinstance(handle, Ahead):
            written, units = handle.land()
            self._spoil_unsound(handle.rows, written)
            handle = self._made(handle.steps, units, handle.started)
        ended = {(event.job_id, event.choice) for event in handle.events if isinstance(event, Done)}
        searched = {job_id for job_id, _ in ended if self._groups.pop(job_id, None)}
        if ended:
            self._clear(lambda row: row.job_id in searched or (row.job_id, row.choice) in ended)
        return handle

    def _check(self, request: TextRequest) -> None:
        total = len(request.prompt_tokens) + request.max_tokens
        if self._context_tokens is not None and total > self._context_tokens:
            raise InvalidRequest(f"{total} tokens do not fit into the context of {self._context_tokens}.")
        if request.rows > len(self._slots):
            field = "n" if request.num_beams == 1 else "num_beams"
            room = f"this worker's cache has room for {len(self._slots)} texts"
            raise InvalidRequest(f"'{field}' is {request.rows}, but {room}.")
        if request.num_beams > 1 and not request.max_tokens:
            raise InvalidRequest("'max_tokens' is 0: beams need a token to search.")
        named = [*request.prompt_tokens, *request.stop_token_ids, *(token for token, _ in request.logit_bias)]
        if (largest := max(named)) >= self._backend.vocabulary_size:
            raise InvalidRequest(f"Token {largest} is not among the model's {self._backend.vocabulary_size}.")

    def _make_room(self, error: Exception) -> list[Event]:
        """There was no memory for the requests that are here: fewer come at once. All begin again, since a call that
        did not end may have left any of them half a step on. One that was alone fails."""
        self._allowance.halve(self._used)
        jobs = self.jobs
        for job_id in jobs:
            self.remove(job_id)
        if len(jobs) != 1:
            return [Evicted(job_id) for job_id in jobs]
        failure = EngineFailed(f"There is not enough memory on the device for this request, even alone ({error}).")
        return [Failed(jobs[0], failure.record())]

    def _clear(self, leaves: Callable[[Row], bool]) -> None:
        for slot, row in enumerate(self._slots):
            if row is not None and leaves(row):
                self._slots[slot] = None
                self._sampling = None

    def _prefill(self) -> None:
        """One chunk for each prompt that is still being read, as many prompts as the call's time allows."""
        reading = [(slot, row) for slot, row in enumerate(self._slots) if row and not row.prefilled and not row.idle]
        if not reading:
            return
        affordable = int(self._call_seconds / self._chunk_seconds) if self._chunk_seconds else 1
        reading = reading[: max(FEWEST_CHUNKS, affordable)]
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
        pairs = zip(reading, logits, strict=True)
        self._spoil({row.job_id for (_, row), scored in pairs if scored is not None and not scored.sum().isfinite()})
        self._sampling = None

    def _let_go(self, slot: int, row: Row) -> None:
        """Once the prompt has been read, the other choices get a copy and go their own ways."""
        if not row.prefilled or not row.followers:
            return
        if row.position:
            self._backend.copy(slot, row.followers, 0, row.position)
        for follower in row.followers:
            if other := self._slots[follower]:
                other.position, other.idle = row.position, False
        row.followers = []

    def _decode(self, until: float) -> tuple[int, int]:
        """One step, or several until then, of every text whose prompt has been read: how many, and the tokens made."""
        fed, going = self._following()
        if not any(going):
            return 0, 0
        if self._writing and any(map(self._writing.covers, filter(None, going))):
            return self._write(self._writing, fed, going, until)
        self._take(self._backend.decode(*fed), going)
        return 1, len(going) - going.count(None)

    def _following(self) -> tuple[_Fed, list[Row | None]]:
        """What the next step feeds, and the texts that it brings on, by slot."""
        active = [row is not None and row.active for row in self._slots]
        highest = max((slot for slot, is_active in enumerate(active) if is_active), default=0) + 1
        rows = self._slots[: row_bucket(highest, len(self._slots), self._backend.smallest_rows)]
        going = [row if on else None for row, on in zip(rows, active, strict=False)]
        tokens, positions = [row.token if row else 0 for row in going], [row.position if row else 0 for row in rows]
        return (tokens, positions, active[: len(rows)]), going

    def _write(self, writing: Writing, fed: _Fed, going: list[Row | None], until: float) -> tuple[int, int]:
        """Steps in which the backend draws for the rows that its writer covers. While others are going too it is one at
        a time."""
        covered = [row if row and writing.covers(row) else None for row in going]
        others = [row if row and not writing.covers(row) else None for row in going]
        alone = not any(others)
        steps = writing.affordable_steps(covered, until - time.perf_counter()) if alone else 1
        written, tokens = writing.write(covered, *fed, steps)
        self._spoil_unsound(covered, written)
        if not alone:
            self._take(written.logits, others)
        return steps, tokens + len(others) - others.count(None)

    def _take(self, logits: Tensor, going: list[Row | None]) -> None:
        """The next tokens of the rows that are going, from their logits (rows, vocabulary)."""
        if not logits.sum().isfinite():
            going = self._without_spoilt(logits, going)
        for row in filter(None, going):
            row.position += 1
        self._draw(logits, [None if row and row.is_beam else row for row in going])
        groups = [group for group in self._groups.values() if group.active]
        for short_list in (True, False):
            self._branch(logits, [group for group in groups if group.short_list is short_list], short_list)

    def _without_spoilt(self, logits: Tensor, going: list[Row | None]) -> list[Row | None]:
        """The rows of requests for which the model gives numbers; the others fail."""
        sound = logits.amax(-1).isfinite().tolist()
        spoilt = {row.job_id for row, is_sound in zip(going, sound, strict=True) if row and not is_sound}
        self._spoil(spoilt)
        return [row if row and row.job_id not in spoilt else None for row in going]

    def _spoil_unsound(self, rows: list[Row | None], written: Written) -> None:
        if not written.sound.all():
            self._spoil({row.job_id for row, sound in zip(rows, written.sound, strict=True) if row and not sound})

    def _spoil(self, jobs: set[str]) -> None:
        failure = EngineFailed("The model's logits for this text are not numbers.").record()
        self._spoilt += [Failed(job_id, failure) for job_id in sorted(jobs)]
        for slot, row in enumerate(self._slots):
            if row and row.job_id in jobs:
                self._backend.wipe(slot)
        for job_id in jobs:
            self.remove(job_id)

    def _draw(self, logits: Tensor, rows: list[Row | None]) -> None:
        """The next token of every row but those that are None."""
        indices = [index for index, row in enumerate(rows) if row]
        if not indices:
            return
        if self._sampling is None or self._sampling.rows != len(rows):
            states = [row.state() if row else None for row in rows]
            self._sampling = BatchSampling(states, logits.shape[-1], logits.device, invariant=self._batch_invariant)
        drawn = draw(logits, self._sampling)
        tokens: list[int] = drawn.tolist()
        going = list(filter(None, rows))
        for index, row in zip(indices, going, strict=True):
            row.output.append(tokens[index])
        self._score(logits, drawn, indices, going)

    def _branch(self, logits: Tensor, groups: list[BeamGroup], short_list: bool) -> None:
        """One step of these beam searches."""
        if not groups:
            return
        logits = logits[[slot for group in groups for slot in group.slots]]
        batch = BatchSampling([state for group in groups for state in group.states()], logits.shape[-1], logits.device)
        counts = [len(group.slots) for group in groups]
        found_by_group = continuations(logits, batch, [group.search for group in groups], short_list=short_list)
        for group, own, found in zip(groups, torch.split(logits, counts), found_by_group, strict=True):
            scores: list[Score] = []
            if group.request.logprobs is not None and found:
                tokens = torch.tensor([each.token for each in found])
                scores = _scores(own[[each.rank for each in found]], tokens, group.request.logprobs)
            for copy in group.advance(found, scores):
                self._backend.copy(copy.source, [copy.target], copy.begin, copy.end)

    def _score(self, logits: Tensor, tokens: Tensor, indices: list[int], going: list[Row]) -> None:
        counts = [row.request.logprobs for row in going]
        if all(count is None for count in counts):
            return
        scores = _scores(logits, tokens, max(count or 0 for count in counts))
        for index, row, count in zip(indices, going, counts, strict=True):
            if count is not None:
                row.scores.append(Score(scores[index].logprob, scores[index].likeliest[:count]))

    def _ended(self) -> list[Event]:
        """The texts that have ended; those of beams come whole."""
        ended = [row for row in self._slots if row and row.finish_reason]
        texts = [Done(row.job_id, row.finish_reason, row.choice) for row in ended if row.finish_reason]
        return [*texts, *(event for group in self._groups.values() for event in group.events())]

    def _report(self) -> list[Event]:
        """The tokens that this call made, per choice."""
        deltas: list[Event] = []
        for row in self._slots:
            made = [] if row is None or row.is_beam else row.output[row.reported :]
            if row is not None and (made or row.prompt_scores):
                deltas.append(Delta(row.job_id, row.choice, made, row.scores, row.prompt_scores))
                row.reported, row.scores, row.prompt_scores = len(row.output), [], []
        return deltas


def _scores(logits: Tensor, tokens: Tensor, count: int) -> list[Score]:
    """Scores of tokens (rows,) under logits (rows, vocabulary)."""
    own, likeliest, values = log_probabilities(logits, tokens.to(logits.device), count)
    return [
        Score(logprob, list(zip(ids, logprobs, strict=True)))
        for logprob, ids, logprobs in zip(own.tolist(), likeliest.tolist(), values.tolist(), strict=True)
    ]
