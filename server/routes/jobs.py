"""Jobs: requests that outlive their connection."""

from __future__ import annotations

from flask import Blueprint, g, request, url_for
from flask.typing import ResponseReturnValue

from contracts.errors import InvalidRequest
from contracts.jobs import JobRecord, no_such_job
from contracts.requests import JobBody
from server import client
from server.access import caller
from server.admission import decode, parse
from server.calls import enqueue
from server.responses import event_stream, job_body
from server.services import services
from server.streaming import JobStream, offsets_of

blueprint = Blueprint("jobs", __name__)


@blueprint.post("/v1/jobs")
def create_job() -> ResponseReturnValue:
    """Put a request on the queue and answer at once."""
    here = services()
    asked = here.admission.job(parse(JobBody, decode(client.body(here.settings.slow_client_seconds))))
    job_id = enqueue(here, asked, here.settings.job_result_seconds)
    location = url_for("jobs.read_job", job_id=job_id)
    return job_body(here.jobs.confirm(job_id), here.jobs), 202, {"Location": location}


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
    return job_body(record, here.jobs)


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
    if not caller().sees(record):
        raise no_such_job(job_id)
    g.job_id = job_id
    return record


def _wait_seconds(most: float) -> float:
    given = ", ".join(request.args.getlist("wait") or ["0"])
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= most:
        raise InvalidRequest(f"'wait' is {given[:40]!r}; give a number of seconds from 0 to {most:g}", param="wait")
    return seconds
