"""A job as server-sent events: first what is new, at the end what the result says, never the same text twice.

The id of an event says how far each choice's text has come, in bytes: whoever lost the connection goes on from there,
on any server.
"""

from __future__ import annotations

import json
import logging
import math
import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

from redis import RedisError

from contracts.errors import InvalidRequest, JobTimedOut, NotFound
from contracts.jobs import JobQueue, JobRecord
from contracts.requests import TextRequest
from contracts.results import TextResult
from server.calls import call_order, enqueue, longest_wait_seconds, lost_call
from server.failures import to_error
from server.responses import end_chunk, result_body, result_of, text_chunk, usage_chunk
from server.services import Services
from server.waiting import GLANCE_SECONDS, Delta, Look, Mailbox, Waiting

HEARTBEAT_SECONDS = 10.0
EVENT_ID = re.compile("[0-9]{1,9}(,[0-9]{1,9})*")

log = logging.getLogger(__name__)


class JobStream:
    """The events of one job, as text for the wire."""

    def __init__(
        self,
        jobs: JobQueue,
        waiting: Waiting,
        job_id: str,
        *,
        offsets: Sequence[int],
        still_there: Callable[[], bool],
        include_usage: bool = False,
    ) -> None:
        """`offsets` is how much of each choice's text the client has, in UTF-8 bytes."""
        self._jobs = jobs
        self._waiting = waiting
        self._job_id = job_id
        self._include_usage = include_usage
        self._still_there = still_there
        self._sent_bytes = list(offsets)
        self._deadline = math.inf  # on the monotonic clock
        self._record: JobRecord | None = None  # as it was last seen

    def __iter__(self) -> Iterator[str]:
        try:
            yield ": connected\n\n"  # headers travel with the first piece of a body, so this one is sent at once
            yield from self._events()
        except Exception as error:
            # The status line is long gone; an error object as the last event is what OpenAI's clients understand.
            yield _event(to_error(error).body())

    def _events(self) -> Iterator[str]:
        with self._waiting.stream(self._job_id) as mailbox:
            record = yield from self._until_ended(mailbox)
        if record.ended:
            yield from self._end(record)

    def _until_ended(self, mailbox: Mailbox) -> Generator[str, None, JobRecord]:
        """Events up to the job's end, or until the client is gone. Returns the job as it is then."""
        record = self._record = self._jobs.read(self._job_id)
        if record.status == "running":
            yield from self._known_text(record)
        spoke = time.monotonic()
        while not record.ended:
            mail = mailbox.get(GLANCE_SECONDS)
            if mail is Look.AGAIN:
                record = self._record = self._waiting.look_again(record)
            elif mail is not None:
                yield from self._new_text(record, mail)
                spoke = time.monotonic()
            elif not self._still_there():
                break
            if time.monotonic() - spoke > HEARTBEAT_SECONDS:
                yield ": still working\n\n"
                spoke = time.monotonic()
            if time.monotonic() > self._deadline:
                raise JobTimedOut("The job did not end within its time and was cancelled.")
        return record

    def _known_text(self, record: JobRecord) -> Iterator[str]:
        """What was written before we listened."""
        for choice, sent_bytes in enumerate(self._sent_bytes):
            yield from self._unsent(record, Delta(choice, sent_bytes, self._text_from(choice, sent_bytes)))

    def _new_text(self, record: JobRecord, delta: Delta) -> Iterator[str]:
        if delta.choice >= len(self._sent_bytes):
            return  # whoever published it, it is not of this job
        choice, sent_bytes = delta.choice, self._sent_bytes[delta.choice]
        if delta.offset > sent_bytes:  # messages were lost
            yield from self._unsent(record, Delta(choice, sent_bytes, self._text_from(choice, sent_bytes)))
        if delta.offset <= self._sent_bytes[choice]:
            yield from self._unsent(record, delta)

    def _text_from(self, choice: int, offset: int) -> str:
        """While Redis is away, nothing: the next delta or the result brings it, and the stream goes on."""
        try:
            return self._jobs.text_from(self._job_id, choice, offset)
        except RedisError as error:
            log.warning("the text of job %s cannot be read, trying again later: %s", self._job_id, error)
            return ""

    def _unsent(self, record: JobRecord, delta: Delta) -> Iterator[str]:
        """The part of a text that goes beyond what was sent; a job that is run again publishes its text again."""
        fresh = delta.text.encode()[self._sent_bytes[delta.choice] - delta.offset :]
        if fresh:
            self._sent_bytes[delta.choice] += len(fresh)
            yield self._numbered(text_chunk(record, delta.choice, fresh.decode(errors="replace")))

    def _end(self, record: JobRecord) -> Iterator[str]:
        result = result_of(record)
        if isinstance(result, TextResult):
            yield from self._end_of_text(record, result)
        else:
            yield _event(result_body(record, self._jobs))
        yield "data: [DONE]\n\n"

    def _end_of_text(self, record: JobRecord, result: TextResult) -> Iterator[str]:
        for index, choice in enumerate(result.choices):
            yield from self._unsent(record, Delta(index, 0, choice.text))
        for index in range(len(result.choices)):
            yield self._numbered(end_chunk(record, index, result))
        if self._include_usage:
            yield _event(usage_chunk(record, result))

    def _numbered(self, body: Mapping[str, object]) -> str:
        """An event whose id tells how far each choice has come."""
        return f"id: {','.join(map(str, self._sent_bytes))}\n{_event(body)}"


class CallStream(JobStream):
    """The events of a call, whose job is its client's alone: leaving early, by client or by time, cancels it."""

    def __init__(
        self, here: Services, request: TextRequest, still_there: Callable[[], bool], include_usage: bool
    ) -> None:
        """Puts the request on the queue. Raises what `calls.enqueue` raises, and redis.RedisError."""
        super().__init__(
            here.jobs,
            here.waiting,
            enqueue(here, call_order(here, request)).job_id,
            offsets=[0] * request.n,
            still_there=still_there,
            include_usage=include_usage,
        )
        self._farewells = here.farewells
        self._deadline = time.monotonic() + longest_wait_seconds(here)

    def __iter__(self) -> Iterator[str]:
        try:
            yield from super().__iter__()
        finally:
            self._leave()

    def _events(self) -> Iterator[str]:
        try:
            yield from super()._events()
        except NotFound:
            raise lost_call() from None

    def _leave(self) -> None:
        try:
            if self._record is None or not self._record.ended:
                self._jobs.cancel(self._job_id)
            if self._record is not None:
                self._farewells.add(self._record)
        except NotFound:
            return  # it is gone already
        except RedisError as error:
            log.warning("job %s goes on although its client left, for it cannot be cancelled: %s", self._job_id, error)


def offsets_of(record: JobRecord, last_event_id: str | None) -> list[int]:
    """How far a client has come that saw this event last. Raises InvalidRequest for what is no id of the job's."""
    choices = record.request.n if isinstance(record.request, TextRequest) else 0
    if not last_event_id:
        return [0] * choices
    parts = last_event_id.split(",") if EVENT_ID.fullmatch(last_event_id) else []
    if not parts or (choices and len(parts) != choices):
        raise InvalidRequest(
            f"'Last-Event-ID' is {last_event_id[:40]!r}; the ids of this job's events are"
            f" {choices or 'no'} byte offsets, as '{','.join(['0'] * max(choices, 1))}'; leave it out to begin anew",
            param="Last-Event-ID",
        )
    return [int(part) for part in parts[:choices]]


def _event(body: Mapping[str, object]) -> str:
    return f"data: {json.dumps(body)}\n\n"
