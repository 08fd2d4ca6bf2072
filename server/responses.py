"""The bodies of answers: OpenAI's shapes, and the job object."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import cast

from flask import Response, has_request_context, stream_with_context

from contracts.enqueue import Accepted
from contracts.errors import EngineFailed, JobCancelled, KamishibaiError
from contracts.jobs import JobQueue, JobRecord
from contracts.requests import ClassifyRequest, ImageRequest, Request, TextRequest
from contracts.results import Choice, ClassifyResult, ImageResult, Result, TextResult
from server import answers
from server.catalogue import CatalogueEntry
from server.estimates import Estimates
from server.listing import Page
from server.services import services

Pictures = list[answers.Picture] | list[answers.PictureLink]


def completion_body(records: Sequence[JobRecord]) -> answers.Completion:
    """What a call with these jobs answers, one for each of its prompts. Raises what `result_of` raises."""
    results = [text_result_of(record) for record in records]
    choices = [choice for result in results for choice in result.choices]
    return {
        **_text_completion(records[0], [_choice(*each) for each in enumerate(choices)]),
        "system_fingerprint": _fingerprint(results),
        "usage": _usage(results),
    }


def result_body(record: JobRecord, jobs: JobQueue) -> answers.Completion | answers.Images | answers.Classifications:
    """What the synchronous call answers for an ended job.

    Raises the job's own error, JobCancelled, EngineFailed for a result that cannot be read, and NotFound for pictures
    past their lifetime.
    """
    result = result_of(record)
    if isinstance(result, TextResult):
        return completion_body([record])
    if isinstance(result, ClassifyResult):
        return _classifications(record, result)
    return _images(record, result, _pictures(record, result, jobs))


def result_of(record: JobRecord) -> Result:
    """An ended job's result. Raises the job's own error, JobCancelled, or EngineFailed if there is nothing to read."""
    if record.error is not None:
        raise record.error
    if record.status == "cancelled":
        raise JobCancelled(f"Job {record.id} was cancelled.")
    if record.result is None:
        raise EngineFailed(f"Job {record.id} is {record.status} but has left no result that can be read.")
    return record.result


def text_result_of(record: JobRecord) -> TextResult:
    """As `result_of`, of a job that writes text: what Redis holds as its result is held against its request."""
    return cast(TextResult, result_of(record))


def image_result_of(record: JobRecord) -> ImageResult:
    """As `text_result_of`, of a job that draws pictures."""
    return cast(ImageResult, result_of(record))


def job_body(record: JobRecord, jobs: JobQueue, estimates: Estimates | None = None) -> answers.Job:
    """The job object, with its place in the queue if there are estimates. Raises what `result_body` raises for a job
    that succeeded."""
    body = job_summary(record)
    if record.status == "succeeded":
        body["result"] = result_body(record, jobs)
    elif estimates and not record.ended:
        _add_estimate(body, record, estimates)
    return body


def job_summary(record: JobRecord) -> answers.Job:
    """The job object without its result."""
    body: answers.Job = {
        "id": record.id,
        "object": "job",
        "status": record.status,
        "model": record.request.target.model,
        "version": record.request.target.version,
        "priority": record.priority,
        "created_at": record.created_at,
        "started_at": record.started_at,
        "ended_at": record.ended_at,
    }
    if (seed := seed_of(record.request)) is not None:
        body["seed"] = seed
    if record.meta.deadline is not None:
        body["deadline_at"] = record.meta.deadline
    if record.meta.metadata is not None:
        body["metadata"] = record.meta.metadata
    if record.error is not None:
        body["error"] = error_body(record.error)["error"]
    return body


def _add_estimate(body: answers.Job, record: JobRecord, estimates: Estimates) -> None:
    now = time.time()
    if record.status == "queued":
        estimate = estimates.of_queued(record)
        body["position"] = estimate.jobs_ahead + 1
        if estimate.start_seconds is not None and estimate.end_seconds is not None:
            body["estimated_start_at"] = now + estimate.start_seconds
            body["estimated_end_at"] = now + estimate.end_seconds
    elif (run_seconds := estimates.run_seconds(record.request)) is not None:
        body["estimated_end_at"] = max(now, (record.started_at or now) + run_seconds)


def job_list_body(page: Page) -> answers.JobList:
    """OpenAI's list."""
    return {
        "object": "list",
        "data": [job_summary(record) for record in page.records],
        "last_id": page.last_id,
        "has_more": page.has_more,
    }


def bulk_body(outcomes: Sequence[Accepted | KamishibaiError]) -> answers.BulkOutcome:
    """What became of each job of a bulk."""
    data: list[answers.AcceptedJob | answers.Error] = [
        {"id": each.job_id, "object": "job", "status": "queued"}
        if isinstance(each, Accepted) and not each.repeated
        else {"id": each.job_id, "object": "job", "status": "repeated"}
        if isinstance(each, Accepted)
        else error_body(each)
        for each in outcomes
    ]
    accepted = sum(isinstance(each, Accepted) for each in outcomes)
    return {"object": "list", "data": data, "accepted": accepted, "refused": len(data) - accepted}


def error_body(error: KamishibaiError) -> answers.Error:
    """OpenAI's error object."""
    return cast(answers.Error, error.body())


def event_stream(events: Iterable[str]) -> Response:
    """An answer of server-sent events, sent as they come."""
    response = Response(stream_with_context(iter(events)), mimetype="text/event-stream")
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"  # nginx would hold the pieces back
    return response


def text_chunk(record: JobRecord, index: int, text: str) -> answers.CompletionChunk:
    """A piece of one choice of a streamed completion, which has its name and seed from this job."""
    piece: answers.CompletionChoice = {"index": index, "text": text, "finish_reason": None, "logprobs": None}
    return _text_completion(record, [piece])


def end_chunk(record: JobRecord, index: int, choice: Choice, fingerprint: str) -> answers.CompletionChunk:
    """The last piece of one choice of a streamed completion: how it ended, and the log-probabilities of all of it."""
    last: answers.CompletionChoice = {**_choice(index, choice), "text": ""}
    return {**_text_completion(record, [last]), "system_fingerprint": fingerprint}


def usage_chunk(record: JobRecord, results: Sequence[TextResult]) -> answers.CompletionChunk:
    """The last piece of a streamed completion whose client asked for usage."""
    return {**_text_completion(record, []), "usage": _usage(results)}


def model_body(entry: CatalogueEntry) -> answers.Model:
    """OpenAI's model object, with what a client may ask of the model."""
    body: answers.Model = {
        "id": entry.target.model,
        "object": "model",
        "created": entry.created_at,
        "owned_by": "kamishibai",
        "version": entry.target.version,
        "variant": entry.target.variant,
        "task": entry.manifest.task,
        "limits": cast(answers.Limits, entry.manifest.limits.model_dump(mode="json", exclude_none=True)),
    }
    if entry.latent_length is not None:
        body["latent_length"] = entry.latent_length
    if entry.manifest.reports:
        body["reports"] = entry.manifest.reports
    if entry.manifest.labels:
        body["labels"] = cast(answers.Labels, entry.manifest.labels.model_dump(mode="json"))
    if entry.manifest.prompt_fields:
        body["prompt_fields"] = cast(answers.PromptFields, entry.manifest.prompt_fields.model_dump(mode="json"))
    return body


def _text_completion(record: JobRecord, choices: list[answers.CompletionChoice]) -> answers.CompletionChunk:
    return {
        "id": f"cmpl-{record.id}",
        "object": "text_completion",
        "created": int(record.created_at),
        "model": record.request.target.model,
        "choices": choices,
        "seed": cast(TextRequest, record.request).seed,
        "version": record.request.target.version,
    }


def _choice(index: int, choice: Choice) -> answers.CompletionChoice:
    body: answers.CompletionChoice = {
        "index": index,
        "text": choice.text,
        "finish_reason": choice.finish_reason,
        "logprobs": cast(answers.Logprobs, choice.logprobs.model_dump(mode="json")) if choice.logprobs else None,
    }
    if choice.fields is not None:
        body["fields"] = choice.fields
    if choice.marked_text is not None:
        body["marked_text"] = choice.marked_text
    if choice.beam_score is not None:
        body["beam_score"] = choice.beam_score
    return body


def _usage(results: Sequence[TextResult]) -> answers.Usage:
    prompt_tokens = sum(result.prompt_tokens for result in results)
    completion_tokens = sum(choice.tokens for result in results for choice in result.choices)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def _fingerprint(results: Iterable[TextResult]) -> str:
    """Jobs of one call may have run on workers with other kernels; all are named then."""
    return ",".join(dict.fromkeys(result.fingerprint for result in results))


def _classifications(record: JobRecord, result: ClassifyResult) -> answers.Classifications:
    tokens = sum(each.tokens for each in result.classifications)
    data: list[answers.Classification] = [
        {
            "index": index,
            "labels": each.labels,
            "scores": [{"label": score.label, "score": score.score} for score in each.scores],
            "tokens": each.tokens,
            "windows": each.windows,
            "truncated": each.truncated,
        }
        for index, each in enumerate(result.classifications)
    ]
    return {
        "id": f"classify-{record.id}",
        "object": "list",
        "created": int(record.created_at),
        "model": record.request.target.model,
        "version": record.request.target.version,
        "data": data,
        "system_fingerprint": result.fingerprint,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _pictures(record: JobRecord, result: ImageResult, jobs: JobQueue) -> Pictures:
    # A URL holds the host that the client asked for; outside of a request nobody has asked for one.
    request = cast(ImageRequest, record.request)
    if request.response_format == "url" and has_request_context():
        return [answers.PictureLink(url=url) for url in services().picture_urls.of(record, request)]
    return [answers.Picture(b64_json=picture) for picture in jobs.pictures(result)]


def _images(record: JobRecord, result: ImageResult, data: Pictures) -> answers.Images:
    request = cast(ImageRequest, record.request)
    body: answers.Images = {
        "created": int(record.created_at),
        "data": data,
        "model": request.target.model,
        "version": request.target.version,
        "system_fingerprint": result.fingerprint,
        "output_format": request.output_format,
    }
    if (seed := seed_of(request)) is not None:
        body["seed"] = seed
    return body


def seed_of(request: Request) -> int | None:
    """None where nothing is drawn from it."""
    if isinstance(request, ClassifyRequest) or (isinstance(request, ImageRequest) and request.latents is not None):
        return None
    return request.seed
