"""Jobs: requests that outlive their connection."""

from __future__ import annotations

import hashlib
from typing import get_args

from flask import Blueprint, g, request, url_for
from flask.typing import ResponseReturnValue

from contracts.enqueue import Accepted
from contracts.errors import InvalidRequest, KamishibaiError
from contracts.jobs import JobRecord, Status, no_such_job
from contracts.orders import MAX_IDEMPOTENCY_CHARACTERS, Idempotency
from contracts.requests import BulkBody, JobBody
from server import client, queries
from server.access import caller
from server.admission import decode, parse
from server.bulk import enqueue_bulk
from server.calls import enqueue, job_order
from server.listing import DEFAULT_LISTED, MOST_LISTED, page_of_jobs
from server.responses import bulk_body, event_stream, job_body, job_list_body
from server.services import services
from server.streaming import JobStream, offsets_of

blueprint = Blueprint("jobs", __name__)


@blueprint.post("/v1/jobs")
def create_job() -> ResponseReturnValue:
    """Put a request on the queue and answer at once."""
    here = services()
    raw = client.body(here.settings.slow_client_seconds)
    body = parse(JobBody, decode(raw))
    accepted = enqueue(here, job_order(here, here.admission.job(body), body, _idempotency(raw)))
    headers = {"Location": url_for("jobs.read_job", job_id=accepted.job_id)}
    if accepted.repeated:
        headers["Idempotent-Replayed"] = "true"
    return job_body(here.jobs.confirm(accepted.job_id), here.jobs), 202, headers


# Flask's own answer to OPTIONS would also name the methods of /v1/jobs/<job_id>, whose rule fits this path, too.
@blueprint.route("/v1/jobs/bulk", methods=["POST", "OPTIONS"], provide_automatic_options=False)
def create_jobs() -> ResponseReturnValue:
    """Put up to 1,000 requests on the queue. Each is judged by itself: it becomes a job or has an error."""
    if request.method == "OPTIONS":
        return "", 200, {"Allow": "OPTIONS, POST"}
    here = services()
    request.max_content_length = here.settings.max_bulk_bytes
    raw = client.body(here.settings.slow_client_seconds)
    outcomes = enqueue_bulk(here, parse(BulkBody, decode(raw)).jobs, _idempotency(raw))
    accepted = [each.job_id for each in outcomes if isinstance(each, Accepted)]
    if not accepted and isinstance(outcomes[0], KamishibaiError):
        raise outcomes[0]
    here.jobs.confirm(accepted[-1])
    return bulk_body(outcomes), 202


@blueprint.get("/v1/jobs")
def list_jobs() -> ResponseReturnValue:
    """Your jobs, newest first, without their results."""
    here = services()
    page = page_of_jobs(
        here.jobs,
        caller().owner,
        after=queries.text("after"),
        limit=queries.count("limit", MOST_LISTED, DEFAULT_LISTED),
        status=queries.word("status", get_args(Status)),
        model=queries.text("model"),
    )
    return job_list_body(page)


@blueprint.get("/v1/jobs/<job_id>")
def read_job(job_id: str) -> ResponseReturnValue:
    """A job as it is, or, with `?wait=SECONDS`, as soon as it has ended."""
    here = services()
    wait_seconds = _wait_seconds(here.settings.max_wait_seconds)
    record = _visible(job_id)
    if wait_seconds and not record.ended:
        client_is_there = client.presence()
        record = here.waiting.wait_ended(
            job_id, wait_seconds, still_there=lambda: not here.waiting.draining and client_is_there()
        )
    return job_body(record, here.jobs, here.estimates)


@blueprint.get("/v1/jobs/<job_id>/events")
def stream_job(job_id: str) -> ResponseReturnValue:
    """A job as server-sent events, from the beginning or from behind `Last-Event-ID`. Leaving does not cancel it."""
    here = services()
    record = _visible(job_id)
    client_is_there = client.presence()
    stream = JobStream(
        here.jobs,
        here.waiting,
        job_id,
        offsets=offsets_of(record, request.headers.get("Last-Event-ID")),
        still_there=lambda: not here.waiting.draining and client_is_there(),
        include_usage=True,
    )
    return event_stream(stream)


@blueprint.delete("/v1/jobs/<job_id>")
def delete_job(job_id: str) -> ResponseReturnValue:
    """Cancel a job that has not ended; forget one that has."""
    here = services()
    record = _visible(job_id)
    if record.ended:
        here.jobs.delete(record)
        return {"id": job_id, "deleted": True}
    here.jobs.cancel(job_id)
    return job_body(here.jobs.read(job_id), here.jobs)


def _visible(job_id: str) -> JobRecord:
    """A job of the caller's own; those of others are as unknown to it as those that never were."""
    record = services().jobs.read(job_id)
    if not caller().sees(record.meta.owner):
        raise no_such_job(job_id)
    g.job_id = job_id
    return record


def _idempotency(raw: bytes) -> Idempotency | None:
    """What makes a repeated request the same one. Raises InvalidRequest for a key that is too long."""
    given = request.headers.get("Idempotency-Key")
    if given is None:
        return None
    if not 0 < len(given) <= MAX_IDEMPOTENCY_CHARACTERS:
        raise InvalidRequest(
            f"'Idempotency-Key' has {len(given)} characters; use 1 to {MAX_IDEMPOTENCY_CHARACTERS}",
            param="Idempotency-Key",
        )
    return Idempotency(
        key=hashlib.sha256(given.encode()).hexdigest(),
        digest=hashlib.sha256(request.path.encode() + b" " + raw).hexdigest(),
    )


def _wait_seconds(most: float) -> float:
    given = ", ".join(request.args.getlist("wait") or ["0"])
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= most:
        raise InvalidRequest(f"'wait' is {given[:40]!r}; give a number of seconds from 0 to {most:g}", param="wait")
    return seconds
