"""What a stream has told of one job's text: never the same twice, whatever was lost or published again."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from redis import RedisError

from contracts.jobs import JobQueue, JobRecord
from contracts.results import TextResult
from server.waiting import Delta

log = logging.getLogger(__name__)


class Piece(NamedTuple):
    """Some text of one choice that was not told before."""

    choice: int  # its index in the stream
    text: str


class Transcript:
    """How far a job's choices have been told. Whoever streams the job looks at it."""

    def __init__(self, jobs: JobQueue, job_id: str, offsets: Sequence[int], first_index: int = 0) -> None:
        """`offsets` is how much of each choice's text the client has, in UTF-8 bytes; `first_index` is the first
        choice's in the stream."""
        self._jobs = jobs
        self.job_id = job_id
        self.first_index = first_index
        self.sent_bytes = list(offsets)
        self.record: JobRecord | None = None  # as it was last seen

    @property
    def ended(self) -> bool:
        return self.record is not None and self.record.ended

    @property
    def running(self) -> bool:
        return self.record is not None and self.record.status == "running"

    def known(self) -> Iterator[Piece]:
        """What was written before anybody listened."""
        for choice, sent_bytes in enumerate(self.sent_bytes):
            yield from self._unsent(Delta(choice, sent_bytes, self._text_from(choice, sent_bytes)))

    def news(self, delta: Delta) -> Iterator[Piece]:
        """What a message brings, and what was lost before it."""
        if delta.choice >= len(self.sent_bytes):
            return  # whoever published it, it is not of this job
        choice, sent_bytes = delta.choice, self.sent_bytes[delta.choice]
        if delta.offset > sent_bytes:  # messages were lost
            yield from self._unsent(Delta(choice, sent_bytes, self._text_from(choice, sent_bytes)))
        if delta.offset <= self.sent_bytes[choice]:
            yield from self._unsent(delta)

    def rest(self, result: TextResult) -> Iterator[Piece]:
        """What the result has beyond that."""
        for index, choice in enumerate(result.choices):
            yield from self._unsent(Delta(index, 0, choice.text))

    def _text_from(self, choice: int, offset: int) -> str:
        """While Redis is away, nothing: the next delta or the result brings it, and the stream goes on."""
        try:
            return self._jobs.text_from(self.job_id, choice, offset)
        except RedisError as error:
            log.warning("the text of job %s cannot be read, trying again later: %s", self.job_id, error)
            return ""

    def _unsent(self, delta: Delta) -> Iterator[Piece]:
        """The part of a text that goes beyond what was sent; a job that is run again publishes its text again."""
        fresh = delta.text.encode()[self.sent_bytes[delta.choice] - delta.offset :]
        if fresh:
            self.sent_bytes[delta.choice] += len(fresh)
            yield Piece(self.first_index + delta.choice, fresh.decode(errors="replace"))
