"""Jobs as server-sent events: first what is new, at the end what the results say, never the same text twice.

The id of an event says how far each choice of a job has come, in bytes: whoever lost the connection goes on from there,
on any server. A call with several prompts is several jobs, which end with its connection; its events have no ids.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import cast

from contracts.errors import InvalidRequest, JobTimedOut, NotFound
from contracts.jobs import JobQueue, JobRecord
from contracts.requests import TextRequest
from contracts.results import TextResult
from server.calls import call_order, cancel_calls, enqueue_calls, longest_wait_seconds, lost_call
from server.failures import to_error
from server.responses import end_chunk, result_body, result_of, text_chunk, usage_chunk
from server.services import Services
from server.transcript import Piece, Transcript
from server.waiting import GLANCE_SECONDS, Delta, Mail, Mailbox, Waiting

HEARTBEAT_SECONDS = 10.0
EVENT_ID = re.compile("[0-9]{1,9}(,[0-9]{1,9})*")


class EventStream:
    """The events of jobs, interleaved as they come, as text for the wire."""

    def __init__(
        self,
        jobs: JobQueue,
        waiting: Waiting,
        transcripts: Sequence[Transcript],
        still_there: Callable[[], bool],
        include_usage: bool,
    ) -> None:
        self._jobs = jobs
        self._waiting = waiting
        self._transcripts = transcripts
        self._still_there = still_there
        self._include_usage = include_usage
        self._results: list[TextResult] = []  # that have been told to their end
        self._deadline = math.inf  # on the monotonic clock

    def __iter__(self) -> Iterator[str]:
        try:
            yield ": connected\n\n"  # headers travel with the first piece of a body, so this one is sent at once
            yield from self._events()
        except Exception as error:
            # The status line is long gone; an error object as the last event is what OpenAI's clients understand.
            yield _event(to_error(error).body())

    def _events(self) -> Iterator[str]:
        with self._waiting.stream(*(each.job_id for each in self._transcripts)) as mailbox:
            yield from self._beginning()
            yield from self._until_ended(mailbox)
        if self._goes_on:
            return
        if self._include_usage and self._results:
            yield _event(usage_chunk(self._head, self._results))
        yield "data: [DONE]\n\n"

    def _beginning(self) -> Iterator[str]:
        """What there is before we have heard anything."""
        for transcript in self._transcripts:
            transcript.record = self._jobs.read(transcript.job_id)
        for transcript in self._transcripts:
            if transcript.ended:
                yield from self._end(transcript)
            elif transcript.running:
                yield from self._text(transcript.known())

    def _until_ended(self, mailbox: Mailbox) -> Iterator[str]:
        """Events up to the end of all jobs, or until the client is gone."""
        spoke = time.monotonic()
        while self._goes_on:
            mail = mailbox.get(GLANCE_SECONDS)
            if mail is None and not self._still_there():
                return
            for event in self._told(mail) if mail and not self._transcripts[mail.place].ended else ():
                yield event
                spoke = time.monotonic()
            if time.monotonic() - spoke > HEARTBEAT_SECONDS:
                yield ": still working\n\n"
                spoke = time.monotonic()
            if time.monotonic() > self._deadline:
                raise JobTimedOut("The job did not end within its time and was cancelled.")

    @property
    def _goes_on(self) -> bool:
        return not all(transcript.ended for transcript in self._transcripts)

    @property
    def _head(self) -> JobRecord:
        """The job that all chunks are named after."""
        return cast(JobRecord, self._transcripts[0].record)

    def _told(self, mail: Mail) -> Iterator[str]:
        transcript = self._transcripts[mail.place]
        if isinstance(mail.news, Delta):
            yield from self._text(transcript.news(mail.news))
            return
        transcript.record = self._waiting.read(mail.news, cast(JobRecord, transcript.record))
        if transcript.ended:
            yield from self._end(transcript)

    def _end(self, transcript: Transcript) -> Iterator[str]:
        """What is left to tell of a job that has ended. Raises its error."""
        record = cast(JobRecord, transcript.record)
        result = result_of(record)
        if not isinstance(result, TextResult):
            yield _event(result_body(record, self._jobs))
            return
        yield from self._text(transcript.rest(result))
        for index, choice in enumerate(result.choices, transcript.first_index):
            yield self._numbered(end_chunk(self._head, index, choice, result.fingerprint))
        self._results.append(result)

    def _text(self, pieces: Iterable[Piece]) -> Iterator[str]:
        for piece in pieces:
            yield self._numbered(text_chunk(self._head, piece.choice, piece.text))

    def _numbered(self, body: Mapping[str, object]) -> str:
        """An event whose id tells how far each choice of the only job has come."""
        if len(self._transcripts) > 1:
            return _event(body)
        return f"id: {','.join(map(str, self._transcripts[0].sent_bytes))}\n{_event(body)}"


class JobStream(EventStream):
    """The events of one job, which goes on whoever reads them."""

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
        super().__init__(jobs, waiting, [Transcript(jobs, job_id, offsets)], still_there, include_usage)


class CallStream(EventStream):
    """The events of a call, whose jobs are its client's alone: leaving early, by client or by time, cancels them, and
    so does the first that fails."""

    def __init__(
        self, here: Services, requests: Sequence[TextRequest], still_there: Callable[[], bool], include_usage: bool
    ) -> None:
        """Puts the requests on the queue. Raises what `calls.enqueue_calls` raises, and redis.RedisError."""
        transcripts: list[Transcript] = []
        first_index = 0
        orders = [call_order(here, request) for request in requests]
        enqueue_calls(here, orders)
        for order, request in zip(orders, requests, strict=True):
            transcripts.append(Transcript(here.jobs, order.job_id, [0] * request.n, first_index))
            first_index += request.n
        super().__init__(here.jobs, here.waiting, transcripts, still_there, include_usage)
        self._here = here
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
        cancel_calls(self._here, (each.job_id for each in self._transcripts if not each.ended))
        for transcript in self._transcripts:
            if transcript.record is not None:
                self._here.farewells.add(transcript.record)


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
