"""The classifying engine: dynamic batching. Every call reads the oldest text that waits, and whoever is as long.

Only texts of one length bucket are read together, so a text's numbers do not depend on how long its neighbours are. The
oldest chooses the bucket, so none waits for ever.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import chain

from torch import Tensor

from contracts.errors import EngineFailed, InvalidRequest
from contracts.requests import ClassifyRequest, Request
from models.runtimes import MOST_SLOTS, ClassifyBackend, length_bucket, most_texts
from workers.engines import CALL_SECONDS, Call, Delta, Done, Event, Failed
from workers.engines.memory import Allowance, out_of_memory

MOST_REQUESTS = 64


@dataclass(frozen=True, eq=False)
class _Text:
    """One window of a request's texts."""

    job_id: str
    place: int  # among all windows of its request
    tokens: list[int]

    @property
    def bucket(self) -> int:
        return length_bucket(len(self.tokens))


class ClassifyEngine:
    def __init__(self, backend: ClassifyBackend, call_seconds: float = CALL_SECONDS) -> None:
        self._backend = backend
        self._call_seconds = call_seconds
        self._unread: dict[str, int] = {}  # job id -> texts that have not been read; in order of arrival
        self._waiting: list[_Text] = []  # oldest first
        self._token_seconds = 0.0  # what one padded token took in the last call
        self._allowance = Allowance(MOST_SLOTS)

    @property
    def capacity(self) -> int:
        return MOST_REQUESTS

    @property
    def jobs(self) -> list[str]:
        return list(self._unread)

    @property
    def free(self) -> int:
        return MOST_REQUESTS - len(self._unread)

    @property
    def busy(self) -> bool:
        return bool(self._unread)

    def fits(self, request: Request) -> bool:
        return self.free > 0

    def add(self, job_id: str, request: Request) -> None:
        if not isinstance(request, ClassifyRequest):
            raise InvalidRequest(f"A {request.task} request cannot be run by a classifier.")
        windows = chain.from_iterable(text.windows for text in request.texts)
        texts = [_Text(job_id, place, list(tokens)) for place, tokens in enumerate(windows)]
        self._check(texts)
        self._unread[job_id] = len(texts)
        self._waiting += texts

    def remove(self, job_id: str, choice: int | None = None) -> None:
        if self._unread.pop(job_id, None) is not None:
            self._waiting = [text for text in self._waiting if text.job_id != job_id]

    def launch(self) -> Call:
        started = time.perf_counter()
        batch = self._next_batch()
        try:
            logits = self._backend.classify([text.tokens for text in batch])
        except Exception as error:
            if not out_of_memory(error):
                raise
            return Call(self._make_room(batch, error), 0, 0, time.perf_counter() - started)
        self._allowance.count_call()
        read = set(batch)
        self._waiting = [text for text in self._waiting if text not in read]
        seconds = time.perf_counter() - started
        self._token_seconds = seconds / (len(batch) * batch[0].bucket)
        return Call(self._events(batch, logits), len(batch), len(batch), seconds)

    def collect(self, handle: Call) -> Call:
        return handle

    def _check(self, texts: list[_Text]) -> None:
        """Admission has looked at that, but any client of Redis can write a request."""
        longest, largest = max(len(text.tokens) for text in texts), max(max(text.tokens) for text in texts)
        if longest > self._backend.context_tokens:
            raise InvalidRequest(f"A text has {longest} tokens; the model reads {self._backend.context_tokens}.")
        if largest >= self._backend.vocabulary_size:
            raise InvalidRequest(f"Token {largest} is not among the model's {self._backend.vocabulary_size}.")

    def _next_batch(self) -> list[_Text]:
        """The oldest text and the next of its bucket, as many as a call has time and memory for."""
        bucket = self._waiting[0].bucket
        room = min(most_texts(bucket, self._backend.batch_tokens), self._allowance.rows)
        affordable = self._call_seconds / (self._token_seconds * bucket) if self._token_seconds else 1
        room = min(room, 1 << (max(1, int(affordable)).bit_length() - 1))
        return [text for text in self._waiting if text.bucket == bucket][:room]

    def _make_room(self, batch: list[_Text], error: Exception) -> list[Event]:
        """There was no memory for so many texts: fewer are read at once. None has been, so nothing is lost."""
        self._allowance.halve(len(batch))
        if len(batch) > 1:
            return []
        return [self._fail(batch[0], f"There is not enough memory on the device to read one text ({error}).")]

    def _events(self, batch: list[_Text], logits: Tensor) -> list[Event]:
        events: list[Event] = []
        sound = logits.isfinite().all(-1).tolist()
        for text, row, is_sound in zip(batch, logits.tolist(), sound, strict=True):
            if text.job_id not in self._unread:
                continue  # another text of it has failed just now
            if not is_sound:
                events.append(self._fail(text, "The model's logits for this text are not numbers."))
                continue
            events.append(Delta(text.job_id, text.place, logits=row))
            self._unread[text.job_id] -= 1
            if not self._unread[text.job_id]:
                del self._unread[text.job_id]
                events.append(Done(text.job_id, "stop"))
        return events

    def _fail(self, text: _Text, message: str) -> Failed:
        self.remove(text.job_id)
        return Failed(text.job_id, EngineFailed(message).record())
