"""The bodies of answers: OpenAI's shapes, and the job object."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flask import Response, stream_with_context

from contracts.errors import EngineFailed, JobCancelled
from contracts.jobs import JobQueue, JobRecord
from contracts.requests import ClassifyRequest
from contracts.results import Choice, ClassifyResult, ImageResult, Result, TextResult
from server.catalogue import CatalogueEntry

Json = dict[str, Any]


def result_body(record: JobRecord, jobs: JobQueue) -> Json:
    """What the synchronous call answers for an ended job.

    Raises the job's own error, JobCancelled, EngineFailed for a result that cannot be read, and NotFound for pictures
    past their lifetime.
    """
    result = result_of(record)
    if isinstance(result, TextResult):
        return _completion(record, result)
    if isinstance(result, ClassifyResult):
        return _classifications(record, result)
    return _images(record, result, jobs.pictures(result))


def result_of(record: JobRecord) -> Result:
    """An ended job's result. Raises the job's own error, JobCancelled, or EngineFailed if there is nothing to read."""
    if record.error is not None:
        raise record.error
    if record.status == "cancelled":
        raise JobCancelled(f"Job {record.id} was cancelled.")
    if record.result is None:
        raise EngineFailed(f"Job {record.id} is {record.status} but has left no result that can be read.")
    return record.result


def job_body(record: JobRecord, jobs: JobQueue) -> Json:
    """The job object. Raises what `result_body` raises for a job that succeeded."""
    body: Json = {
        "id": record.id,
        "object": "job",
        "status": record.status,
        "model": record.request.target.model,
        "version": record.request.target.version,
        **_seed(record),
        "created_at": record.created_at,
        "started_at": record.started_at,
        "ended_at": record.ended_at,
    }
    if record.status == "succeeded":
        body["result"] = result_body(record, jobs)
    elif record.error is not None:
        body.update(record.error.body())
    return body


def event_stream(events: Iterable[str]) -> Response:
    """An answer of server-sent events, sent as they come."""
    response = Response(stream_with_context(iter(events)), mimetype="text/event-stream")
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"  # nginx would hold the pieces back
    return response


def text_chunk(record: JobRecord, index: int, text: str) -> Json:
    """A piece of one choice of a streamed completion."""
    return _text_completion(record, [{"index": index, "text": text, "finish_reason": None, "logprobs": None}])


def end_chunk(record: JobRecord, index: int, result: TextResult) -> Json:
    """The last piece of one choice of a streamed completion: how it ended, and the log-probabilities of all of it."""
    choice = {**_choice(index, result.choices[index]), "text": ""}
    return {**_text_completion(record, [choice]), "system_fingerprint": result.fingerprint}


def usage_chunk(record: JobRecord, result: TextResult) -> Json:
    """The last piece of a streamed completion whose client asked for usage."""
    return {**_text_completion(record, []), "usage": _usage(result)}


def model_body(entry: CatalogueEntry) -> Json:
    """OpenAI's model object, with what a client may ask of the model."""
    return {
        "id": entry.target.model,
        "object": "model",
        "created": entry.created_at,
        "owned_by": "kamishibai",
        "version": entry.target.version,
        "variant": entry.target.variant,
        "task": entry.manifest.task,
        "limits": entry.manifest.limits.model_dump(mode="json", exclude_none=True),
        **({"labels": entry.manifest.labels.model_dump(mode="json")} if entry.manifest.labels else {}),
    }


def _seed(record: JobRecord) -> Json:
    """Nothing for what is computed without chance."""
    return {} if isinstance(record.request, ClassifyRequest) else {"seed": record.request.seed}


def _completion(record: JobRecord, result: TextResult) -> Json:
    choices = [_choice(*each) for each in enumerate(result.choices)]
    return {
        **_text_completion(record, choices),
        "system_fingerprint": result.fingerprint,
        "usage": _usage(result),
    }


def _text_completion(record: JobRecord, choices: list[Json]) -> Json:
    return {
        "id": f"cmpl-{record.id}",
        "object": "text_completion",
        "created": int(record.created_at),
        "model": record.request.target.model,
        "choices": choices,
        **_seed(record),
        "version": record.request.target.version,
    }


def _choice(index: int, choice: Choice) -> Json:
    body = {"index": index, **choice.model_dump(mode="json", include={"text", "finish_reason", "logprobs"})}
    return body | choice.model_dump(mode="json", include={"fields", "beam_score"}, exclude_none=True)


def _usage(result: TextResult) -> Json:
    completion_tokens = sum(choice.tokens for choice in result.choices)
    return {
        "prompt_tokens": result.prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": result.prompt_tokens + completion_tokens,
    }


def _classifications(record: JobRecord, result: ClassifyResult) -> Json:
    tokens = sum(each.tokens for each in result.classifications)
    return {
        "id": f"classify-{record.id}",
        "object": "list",
        "created": int(record.created_at),
        "model": record.request.target.model,
        "version": record.request.target.version,
        "data": [{"index": index, **each.model_dump(mode="json")} for index, each in enumerate(result.classifications)],
        "system_fingerprint": result.fingerprint,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _images(record: JobRecord, result: ImageResult, pictures: list[str]) -> Json:
    return {
        "created": int(record.created_at),
        "data": [{"b64_json": picture} for picture in pictures],
        **_seed(record),
        "model": record.request.target.model,
        "version": record.request.target.version,
        "system_fingerprint": result.fingerprint,
        "output_format": "png",
    }
