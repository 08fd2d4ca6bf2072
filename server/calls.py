"""Jobs of the current client: put on the queue, and, for a client that waits, followed to their end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from flask import g

from contracts.enqueue import Accepted
from contracts.errors import JobCancelled, JobTimedOut, KamishibaiError, NotFound, QueueFull, QueueUnavailable
from contracts.jobs import JobRecord
from contracts.orders import Idempotency, Order
from contracts.requests import JobBody, Request
from server.access import caller
from server.services import Services

MARGIN_SECONDS = 30.0  # for the way through the queue, on top of the time that the job itself may take


def call_order(here: Services, request: Request) -> Order:
    """Of a job whose result is only read by the client that waits for it. Once it has been read, `Services.farewells`
    should be told."""
    return Order(
        request=request,
        result_seconds=here.settings.unread_result_seconds,
        timeout_seconds=here.settings.job_timeout_seconds,
        owner=caller().owner,
        request_id=g.request_id,
    )


def job_order(here: Services, request: Request, body: JobBody, idempotency: Idempotency | None) -> Order:
    """Of a job that its client comes back for. Raises DeadlineUnreachable."""
    if body.deadline_seconds is not None:
        here.estimates.check_deadline(request, body.priority, body.deadline_seconds)
    return Order(
        request=request,
        result_seconds=body.result_seconds or here.settings.job_result_seconds,
        timeout_seconds=here.settings.job_timeout_seconds,
        priority=body.priority,
        owner=caller().owner,
        request_id=g.request_id,
        deadline=None if body.deadline_seconds is None else time.time() + body.deadline_seconds,
        metadata=body.metadata,
        webhook=body.webhook,
        listed=True,
        idempotency=idempotency,
    )


def enqueue_all(here: Services, orders: Sequence[Order]) -> list[Accepted | KamishibaiError]:
    """Put orders on their queues, as far as the current client's limits allow; see `JobQueue.enqueue`."""
    outcomes = here.jobs.enqueue(orders, caller().limits)
    for order, outcome in zip(orders, outcomes, strict=True):
        if isinstance(outcome, QueueFull):
            outcome.retry_after_seconds = here.estimates.retry_seconds(order.request)
    return outcomes


def enqueue(here: Services, order: Order) -> Accepted:
    """Put one order on its queue. Raises QueueFull, RateLimited, TooManyJobs, IdempotencyConflict."""
    (outcome,) = enqueue_all(here, [order])
    if isinstance(outcome, KamishibaiError):
        raise outcome
    g.job_id = outcome.job_id
    return outcome


def longest_wait_seconds(here: Services) -> float:
    return here.settings.job_timeout_seconds + MARGIN_SECONDS


def call(here: Services, request: Request, still_there: Callable[[], bool]) -> JobRecord:
    """Run a request and wait for its end. A client that leaves or waits too long takes its job with it.

    Raises what `enqueue` raises, JobCancelled, JobTimedOut, QueueUnavailable (the job is gone) and redis.RedisError.
    """
    job_id = enqueue(here, call_order(here, request)).job_id
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
