"""A synchronous call: one job from its admission to its end, for a client that waits."""

from __future__ import annotations

from collections.abc import Callable

from flask import g

from contracts.errors import JobCancelled, JobTimedOut, NotFound, QueueUnavailable
from contracts.jobs import JobRecord
from contracts.requests import Request
from server.access import caller
from server.services import Services

MARGIN_SECONDS = 30.0  # for the way through the queue, on top of the time that the job itself may take


def enqueue_call(here: Services, request: Request) -> str:
    """Put a request on the queue whose result is only read by the client that waits for it. Returns the job's id.

    Once it has been read, `Services.farewells` should be told.
    """
    return enqueue(here, request, here.settings.unread_result_seconds)


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
    """Run a request and wait for its end. A client that leaves or waits too long takes its job with it.

    Raises JobCancelled, JobTimedOut, QueueUnavailable (the job is gone) and redis.RedisError.
    """
    job_id = enqueue_call(here, request)
    timeout_seconds = longest_wait_seconds(here)
    try:
        record = here.waiting.wait_ended(job_id, timeout_seconds, still_there)
        if not record.ended:
            here.jobs.cancel(job_id)
        here.farewells.add(record)
    except NotFound:
        raise lost_call() from None
    if record.ended:
        return record
    if not still_there():
        raise JobCancelled("The client left before its answer was ready.")
    raise JobTimedOut(f"The job did not end within {timeout_seconds:.0f} seconds and was cancelled.")


def lost_call() -> QueueUnavailable:
    """What is said of a call whose job is not there any more: nobody but its client would have asked for it."""
    return QueueUnavailable(
        "The job of this call is gone, deleted or kept no longer while the queue could not be reached; send it again."
    )
