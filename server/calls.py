"""Jobs of the current client: put on the queue, and, for a client that waits, followed to their end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from flask import g
from redis import RedisError

from contracts.enqueue import Accepted
from contracts.errors import JobCancelled, JobTimedOut, KamishibaiError, NotFound, QueueFull, QueueUnavailable
from contracts.jobs import JobRecord, accepted
from contracts.orders import Idempotency, Order
from contracts.requests import ImageRequest, JobBody, Request
from server.access import caller
from server.responses import result_of
from server.services import Services

MARGIN_SECONDS = 30.0  # for the way through the queue, on top of the time that the job itself may take

log = logging.getLogger(__name__)


def enqueue_calls(here: Services, orders: Sequence[Order]) -> None:
    """Put orders of `call_order` on the queue, all or none. Once their jobs have been read, `Services.farewells` should
    be told. Raises what `enqueue` raises."""
    outcomes = enqueue_all(here, orders)
    for outcome in outcomes:
        if isinstance(outcome, KamishibaiError):
            cancel_calls(here, (each.job_id for each in outcomes if isinstance(each, Accepted)))
            raise outcome
    g.job_id = orders[0].job_id  # by which the answer is named, too


def cancel_calls(here: Services, job_ids: Iterable[str]) -> None:
    """Nobody waits for these jobs any more. Those that have ended, or are gone, need nothing."""
    for job_id in job_ids:
        try:
            with suppress(NotFound):
                here.jobs.cancel(job_id)
        except RedisError as error:
            log.warning("job %s goes on although nobody waits, for it cannot be cancelled: %s", job_id, error)


def call_order(here: Services, request: Request) -> Order:
    """Of a job whose result is only read by the client that waits for it."""
    return Order(
        request=request,
        result_seconds=_result_seconds(here, request),
        timeout_seconds=here.settings.job_timeout_seconds,
        owner=caller().owner,
        request_id=g.request_id,
    )


def job_order(here: Services, request: Request, body: JobBody, idempotency: Idempotency | None) -> Order:
    """Of a job that its client comes back for. Raises DeadlineUnreachable, InvalidRequest for a webhook's URL."""
    if body.webhook is not None:
        here.webhook_addresses.check(body.webhook)
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


def call(here: Services, request: Request, still_there: Callable[[], bool], *, cache: bool = False) -> JobRecord:
    """Run a request and wait for its end. Raises what `call_all` raises."""
    (record,) = call_all(here, [request], still_there, cache=cache)
    return record


def call_all(
    here: Services, requests: Sequence[Request], still_there: Callable[[], bool], *, cache: bool = False
) -> list[JobRecord]:
    """The ended jobs of requests: those of equal ones from before, where the cache may be asked, and the others run.

    Raises what `enqueue` raises, the error of a job that failed, JobCancelled, JobTimedOut, QueueUnavailable (a job is
    gone) and redis.RedisError.
    """
    if not cache:
        return _run_all(here, requests, still_there)
    known = [here.results.find(request, caller().owner) for request in requests]
    missing = [request for request, record in zip(requests, known, strict=True) if record is None]
    g.cache = "miss" if len(missing) == len(requests) else "partial" if missing else "hit"
    ran = _run_all(here, missing, still_there) if missing else []
    for record in ran:
        here.results.add(record)
    rest = iter(ran)
    return [record or next(rest) for record in known]


def _run_all(here: Services, requests: Sequence[Request], still_there: Callable[[], bool]) -> list[JobRecord]:
    """A client that leaves or waits too long takes its jobs with it, and so does the first job that fails."""
    orders = [call_order(here, request) for request in requests]
    job_ids = [order.job_id for order in orders]
    timeout_seconds = longest_wait_seconds(here)
    with here.waiting.answer(*job_ids) as mailbox:
        enqueue_calls(here, orders)
        try:
            records = here.waiting.until_ended(mailbox, list(map(accepted, orders)), timeout_seconds, still_there)
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
