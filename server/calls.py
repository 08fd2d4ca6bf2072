"""Synchronous calls: jobs from their admission to their end, for a client that waits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from flask import g
from redis import RedisError

from contracts.errors import JobCancelled, JobTimedOut, NotFound, QueueUnavailable
from contracts.jobs import JobRecord
from contracts.requests import ImageRequest, Request
from server.access import caller
from server.responses import result_of
from server.services import Services

MARGIN_SECONDS = 30.0  # for the way through the queue, on top of the time that the job itself may take

log = logging.getLogger(__name__)


def enqueue_calls(here: Services, requests: Sequence[Request]) -> list[str]:
    """Put requests on the queue whose results are only read by the client that waits for them: all or none.

    Returns the jobs' ids. Once they have been read, `Services.farewells` should be told.
    """
    job_ids: list[str] = []
    try:
        for request in requests:
            job_ids.append(enqueue(here, request, _result_seconds(here, request)))
    except Exception:
        cancel_calls(here, job_ids)
        raise
    g.job_id = job_ids[0]  # by which the answer is named, too
    return job_ids


def cancel_calls(here: Services, job_ids: Iterable[str]) -> None:
    """Nobody waits for these jobs any more. Those that have ended, or are gone, need nothing."""
    for job_id in job_ids:
        try:
            with suppress(NotFound):
                here.jobs.cancel(job_id)
        except RedisError as error:
            log.warning("job %s goes on although nobody waits, for it cannot be cancelled: %s", job_id, error)


def enqueue(here: Services, request: Request, result_seconds: int) -> str:
    """Put the current client's request on the queue; its id goes with it. Returns the job's id."""
    g.job_id = here.jobs.enqueue(
        request,
        result_seconds=result_seconds,
        timeout_seconds=here.settings.job_timeout_seconds,
        owner=caller().owner,
        request_id=g.request_id,
    )
    return str(g.job_id)


def longest_wait_seconds(here: Services) -> float:
    return here.settings.job_timeout_seconds + MARGIN_SECONDS


def call(here: Services, request: Request, still_there: Callable[[], bool]) -> JobRecord:
    """Run a request and wait for its end. Raises what `call_all` raises."""
    (record,) = call_all(here, [request], still_there)
    return record


def call_all(here: Services, requests: Sequence[Request], still_there: Callable[[], bool]) -> list[JobRecord]:
    """Run requests and wait for the end of all. A client that leaves or waits too long takes its jobs with it, and so
    does the first job that fails.

    Raises that job's error, JobCancelled, JobTimedOut, QueueUnavailable (a job is gone) and redis.RedisError.
    """
    job_ids = enqueue_calls(here, requests)
    timeout_seconds = longest_wait_seconds(here)
    try:
        records = here.waiting.wait_all_ended(job_ids, timeout_seconds, still_there)
    except NotFound:
        cancel_calls(here, job_ids)
        raise lost_call() from None
    cancel_calls(here, (record.id for record in records if not record.ended))
    for record in records:
        if not _is_read_later(record.request):
            here.farewells.add(record)
    for record in records:
        if record.ended:
            result_of(record)  # raises the error of one that has failed
    if all(record.ended for record in records):
        return records
    if not still_there():
        raise JobCancelled("The client left before its answer was ready.")
    raise JobTimedOut(f"The job did not end within {timeout_seconds:.0f} seconds and was cancelled.")


def _is_read_later(request: Request) -> bool:
    """Whether the answer names URLs of what the job has made, by which it is fetched afterwards."""
    return isinstance(request, ImageRequest) and request.response_format == "url"


def _result_seconds(here: Services, request: Request) -> int:
    settings = here.settings
    return settings.job_result_seconds if _is_read_later(request) else settings.unread_result_seconds


def lost_call() -> QueueUnavailable:
    """What is said of a call whose job is not there any more: nobody but its client would have asked for it."""
    return QueueUnavailable(
        "The job of this call is gone, deleted or kept no longer while the queue could not be reached; send it again."
    )
