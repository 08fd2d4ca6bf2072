"""The OpenAPI 3.1 document: made from the routes, the types that validate bodies and the types of answers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from importlib import metadata
from typing import Any, Literal, get_args

from flask import Flask
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from contracts import errors
from contracts.bundle import REPORTS
from contracts.errors import KamishibaiError
from contracts.jobs import Status
from contracts.orders import MAX_IDEMPOTENCY_CHARACTERS
from contracts.requests import (
    MAX_FILE_SECONDS,
    MIN_FILE_SECONDS,
    BatchBody,
    BulkBody,
    ClassifyBody,
    CompletionBody,
    ImageBody,
    JobBody,
    PromoteBody,
    RollbackBody,
    ShadowBody,
)
from contracts.settings import Settings
from server import answers, page_files
from server.access import OPEN_ENDPOINTS, SCOPE_OF_ENDPOINT
from server.batches import MOST_BATCHES_LISTED
from server.files import MOST_FILES_LISTED
from server.listing import DEFAULT_LISTED, MOST_LISTED
from server.picture_files import FILE_NAME, MEDIA_TYPES
from server.streaming import EVENT_ID

Json = dict[str, Any]
Tag = Literal["Text", "Pictures", "Labels", "Jobs", "Batches", "Models", "Control", "Operations"]

_GUARDED = (errors.Unauthenticated, errors.Forbidden, errors.QueueUnavailable)
_TAKES_BODY = (errors.InvalidRequest, errors.BodyTooSlow, errors.BodyTooLarge, errors.UnknownModel, errors.NotReady)
_ADMITS = (errors.QueueFull, errors.RateLimited, errors.TooManyJobs)
_ENDS_JOB = (
    errors.JobCancelled,
    errors.EngineFailed,
    errors.LeaseLost,
    errors.JobTimedOut,
    errors.NotFound,
    *_ADMITS,
)
_MAKES_JOB = (errors.IdempotencyConflict, errors.DeadlineUnreachable)
_CONTROLS = (errors.UnknownModel,)
_CHOOSES = (errors.InvalidRequest, errors.BodyTooSlow, errors.BodyTooLarge, errors.NotFound, errors.UnknownModel)
_FINDS_JOB = (errors.NotFound, errors.NewerRequest, errors.EngineFailed)

_EVENTS = "The schema is that of each event. Lines that begin with a colon keep the connection alive."
_JOB_ID: Json = {"name": "job_id", "in": "path", "required": True, "schema": {"type": "string"}}
_FILE: Json = {"name": "file", "in": "path", "required": True, "schema": {"type": "string"}}
_MODEL: Json = {
    "name": "name",
    "in": "path",
    "required": True,
    "description": "A model's name, or `name@version`.",
    "schema": {"type": "string"},
}
_MODEL_NAME: Json = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
_VERSION: Json = {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}}
_SHA256: Json = {"name": "sha256", "in": "path", "required": True, "schema": {"type": "string"}}
_RANGE: Json = {
    "name": "Range",
    "in": "header",
    "description": "Bytes from here on, like `bytes=1024-`; the answer is 206 then.",
    "schema": {"type": "string"},
}
_WORKER: Json = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
_IDEMPOTENCY_KEY: Json = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same key with the same body makes no second job within 24 hours.",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_IDEMPOTENCY_CHARACTERS},
}
_LISTED: tuple[Json, ...] = (
    {
        "name": "limit",
        "in": "query",
        "schema": {"type": "integer", "minimum": 1, "maximum": MOST_LISTED, "default": DEFAULT_LISTED},
    },
    {"name": "after", "in": "query", "description": "The `last_id` of the page before.", "schema": {"type": "string"}},
    {"name": "status", "in": "query", "schema": {"type": "string", "enum": list(get_args(Status))}},
    {"name": "model", "in": "query", "schema": {"type": "string"}},
)
_PICTURE: tuple[Json, ...] = (
    {"name": "file", "in": "path", "required": True, "schema": {"type": "string", "pattern": f"^{FILE_NAME}$"}},
    {
        "name": "expires",
        "in": "query",
        "required": True,
        "description": "Unix seconds.",
        "schema": {"type": "integer", "minimum": 0},
    },
    {"name": "signature", "in": "query", "required": True, "schema": {"type": "string", "pattern": "^[0-9a-f]{64}$"}},
)
_FILE_ID: Json = {"name": "file_id", "in": "path", "required": True, "schema": {"type": "string"}}
_BATCH_ID: Json = {"name": "batch_id", "in": "path", "required": True, "schema": {"type": "string"}}
_AFTER: Json = {
    "name": "after",
    "in": "query",
    "description": "Go on behind the one with this id.",
    "schema": {"type": "string"},
}
# What FileForm takes, as a form spells it.
_FILE_FORM: Json = {
    "type": "object",
    "required": ["file", "purpose"],
    "additionalProperties": False,
    "properties": {
        "file": {"type": "string", "format": "binary", "description": "The content, with a file name."},
        "purpose": {"type": "string", "enum": ["batch"]},
        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
        "expires_after[seconds]": {
            "type": "integer",
            "minimum": MIN_FILE_SECONDS,
            "maximum": MAX_FILE_SECONDS,
            "description": "How long it is kept after its making.",
        },
    },
}
# What the id in an answer is good for: the parameter that takes it, and the operations.
_LINKS: dict[str, tuple[str, tuple[str, ...]]] = {
    "jobs.create_job": ("job_id", ("read_job", "stream_job", "delete_job")),
    "files.create_file": ("file_id", ("read_file", "read_file_content", "delete_file")),
    "batches.create_batch": ("batch_id", ("read_batch", "cancel_batch")),
}
_LAST_EVENT_ID: Json = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "The id of the last event that you have seen: go on behind it.",
    "schema": {"type": "string", "pattern": f"^({EVENT_ID.pattern})?$"},
}


@dataclass(frozen=True)
class Operation:
    """What a route takes and answers, beyond what its function says of it."""

    tag: Tag
    answer: Any = None  # the type of its body as JSON
    status: int = 200
    content: tuple[str, ...] = ()  # other types of content that it answers with
    body: type[BaseModel] | None = None
    example: Json | None = None  # of the body
    form: Json | None = None  # the schema of a body that is multipart/form-data
    parameters: tuple[Json, ...] = ()
    failures: tuple[type[KamishibaiError], ...] = ()


def operations(settings: Settings) -> dict[str, Operation]:
    """By endpoint."""
    wait: Json = {
        "name": "wait",
        "in": "query",
        "description": "Seconds to wait for the job's end.",
        "schema": {"type": "number", "minimum": 0, "maximum": settings.max_wait_seconds, "default": 0},
    }
    return {
        "completions.create_completion": Operation(
            "Text",
            answers.Completion,
            content=("text/event-stream",),
            body=CompletionBody,
            example={"model": "synopses-lstm", "prompt": "A young ", "max_tokens": 60, "temperature": 0.7, "seed": 1},
            failures=(*_TAKES_BODY, *_ENDS_JOB),
        ),
        "completions.create_chat_completion": Operation("Text", status=404, failures=(errors.NotFound,)),
        "images.create_images": Operation(
            "Pictures",
            answers.Images,
            content=tuple(MEDIA_TYPES.values()),
            body=ImageBody,
            example={"model": "faces", "n": 1, "seed": 3},
            failures=(*_TAKES_BODY, *_ENDS_JOB),
        ),
        "images.read_picture": Operation(
            "Pictures",
            content=tuple(MEDIA_TYPES.values()),
            parameters=(_JOB_ID, *_PICTURE),
            failures=(errors.Forbidden, *_FINDS_JOB, errors.QueueUnavailable),
        ),
        "classifications.classify": Operation(
            "Labels",
            answers.Classifications,
            body=ClassifyBody,
            example={"model": "genres", "input": ["Two friends rob a bank.", "A ghost haunts a castle."]},
            failures=(*_TAKES_BODY, *_ENDS_JOB),
        ),
        "jobs.create_job": Operation(
            "Jobs",
            answers.Job,
            status=202,
            body=JobBody,
            example={"model": "synopses-lstm", "input": {"prompt": "A young ", "max_tokens": 60, "seed": 1}},
            parameters=(_IDEMPOTENCY_KEY,),
            failures=(*_TAKES_BODY, *_FINDS_JOB, *_ADMITS, *_MAKES_JOB),
        ),
        "jobs.create_jobs": Operation(
            "Jobs",
            answers.BulkOutcome,
            status=202,
            body=BulkBody,
            example={"jobs": [{"model": "faces", "input": {"n": 1, "seed": seed}} for seed in (1, 2)]},
            parameters=(_IDEMPOTENCY_KEY,),
            failures=(*_TAKES_BODY, *_FINDS_JOB, *_ADMITS, *_MAKES_JOB),
        ),
        "jobs.list_jobs": Operation(
            "Jobs", answers.JobList, parameters=_LISTED, failures=(errors.InvalidRequest, errors.NotFound)
        ),
        "jobs.read_job": Operation(
            "Jobs", answers.Job, parameters=(_JOB_ID, wait), failures=(errors.InvalidRequest, *_FINDS_JOB)
        ),
        "jobs.stream_job": Operation(
            "Jobs",
            content=("text/event-stream",),
            parameters=(_JOB_ID, _LAST_EVENT_ID),
            failures=(errors.InvalidRequest, errors.NotFound),
        ),
        "jobs.delete_job": Operation("Jobs", answers.Job | answers.Deleted, parameters=(_JOB_ID,), failures=_FINDS_JOB),
        "files.create_file": Operation(
            "Batches",
            answers.File,
            form=_FILE_FORM,
            failures=(errors.InvalidRequest, errors.BodyTooSlow, errors.BodyTooLarge, errors.StorageFull),
        ),
        "files.list_files": Operation(
            "Batches",
            answers.FileList,
            parameters=(
                _limit(MOST_FILES_LISTED, MOST_FILES_LISTED),
                _AFTER,
                {"name": "order", "in": "query", "schema": {"type": "string", "enum": ["asc", "desc"]}},
                {"name": "purpose", "in": "query", "schema": {"type": "string", "enum": ["batch", "batch_output"]}},
            ),
            failures=(errors.InvalidRequest,),
        ),
        "files.read_file": Operation("Batches", answers.File, parameters=(_FILE_ID,), failures=(errors.NotFound,)),
        "files.read_file_content": Operation(
            "Batches", content=("application/octet-stream",), parameters=(_FILE_ID,), failures=(errors.NotFound,)
        ),
        "files.delete_file": Operation(
            "Batches", answers.FileDeleted, parameters=(_FILE_ID,), failures=(errors.NotFound,)
        ),
        "batches.create_batch": Operation(
            "Batches",
            answers.Batch,
            body=BatchBody,
            example={"input_file_id": "file-ID", "endpoint": "/v1/completions", "completion_window": "24h"},
            failures=(
                errors.InvalidRequest,
                errors.BodyTooSlow,
                errors.BodyTooLarge,
                errors.NotFound,
                errors.TooManyBatches,
            ),
        ),
        "batches.list_batches": Operation(
            "Batches",
            answers.BatchList,
            parameters=(_limit(MOST_BATCHES_LISTED, 20), _AFTER),
            failures=(errors.InvalidRequest,),
        ),
        "batches.read_batch": Operation("Batches", answers.Batch, parameters=(_BATCH_ID,), failures=(errors.NotFound,)),
        "batches.cancel_batch": Operation(
            "Batches", answers.Batch, parameters=(_BATCH_ID,), failures=(errors.InvalidRequest, errors.NotFound)
        ),
        "webhooks.read_secret": Operation("Jobs", answers.WebhookSecret),
        "webhooks.rotate_secret": Operation("Jobs", answers.WebhookSecret),
        "models.list_models": Operation("Models", answers.ModelList),
        "models.read_model": Operation(
            "Models", answers.Model, parameters=(_MODEL,), failures=(errors.UnknownModel, errors.NotReady)
        ),
        "models.read_report": Operation(
            "Models",
            content=tuple(REPORTS.values()),
            parameters=(_MODEL, _FILE),
            failures=(errors.UnknownModel, errors.NotReady, errors.NotFound),
        ),
        "bundles.list_bundles": Operation("Models", answers.BundleList),
        "bundles.read_bundle_manifest": Operation(
            "Models", Json, parameters=(_MODEL_NAME, _VERSION), failures=(errors.NotFound,)
        ),
        "bundles.read_bundle_file": Operation(
            "Models",
            content=("application/octet-stream",),
            parameters=(_MODEL_NAME, _VERSION, _SHA256, _RANGE),
            failures=(errors.NotFound, errors.RangeNotSatisfiable),
        ),
        "control.load_model": Operation(
            "Control", answers.Controlled, status=202, parameters=(_MODEL,), failures=_CONTROLS
        ),
        "control.unload_model": Operation(
            "Control", answers.Controlled, status=202, parameters=(_MODEL,), failures=_CONTROLS
        ),
        "control.reload_model": Operation(
            "Control", answers.Controlled, status=202, parameters=(_MODEL,), failures=_CONTROLS
        ),
        "control.begin_shadow": Operation(
            "Control",
            answers.Shadow,
            status=201,
            body=ShadowBody,
            example={"candidate": "2/onnx:int8", "share": 0.1},
            parameters=(_MODEL,),
            failures=(*_CHOOSES, errors.NotReady),
        ),
        "control.read_shadow": Operation(
            "Control", answers.Shadow, parameters=(_MODEL,), failures=(errors.NotFound, errors.UnknownModel)
        ),
        "control.stop_shadow": Operation(
            "Control", answers.Shadow, parameters=(_MODEL,), failures=(errors.NotFound, errors.UnknownModel)
        ),
        "control.promote_model": Operation(
            "Control", answers.Choice, body=PromoteBody, example={}, parameters=(_MODEL,), failures=_CHOOSES
        ),
        "control.roll_back_model": Operation(
            "Control", answers.Choice, body=RollbackBody, example={}, parameters=(_MODEL,), failures=_CHOOSES
        ),
        "control.list_workers": Operation("Control", answers.WorkerList),
        "control.drain_worker": Operation(
            "Control", answers.Controlled, status=202, parameters=(_WORKER,), failures=(errors.NotFound,)
        ),
        "control.resume_worker": Operation(
            "Control", answers.Controlled, status=202, parameters=(_WORKER,), failures=(errors.NotFound,)
        ),
        "operations.health": Operation("Operations", answers.Health),
        "operations.readiness": Operation(
            "Operations", answers.Readiness, failures=(errors.NotReady, errors.QueueUnavailable)
        ),
        "operations.metrics": Operation("Operations", content=("text/plain",)),
        "operations.openapi": Operation("Operations", Json),
        "operations.docs": Operation("Operations", content=("text/html",)),
        "operations.index": Operation("Operations", answers.Index, content=("text/html",)),
        "page.read_page_file": _page_file(),
        "page.read_page_library": _page_file(),
    }


def _page_file() -> Operation:
    return Operation(
        "Operations", content=tuple(page_files.MEDIA_TYPES.values()), parameters=(_FILE,), failures=(errors.NotFound,)
    )


def _limit(most: int, default: int) -> Json:
    schema = {"type": "integer", "minimum": 1, "maximum": most, "default": default}
    return {"name": "limit", "in": "query", "description": "How many to list.", "schema": schema}


def document(app: Flask, settings: Settings) -> Json:
    """The document of an application: one operation for each of its routes. Raises KeyError for one not known here."""
    known = operations(settings)
    schemas, components = _schemas(list(known.values()))
    paths: dict[str, Json] = {}
    for rule in app.url_map.iter_rules():
        path = paths.setdefault(re.sub(r"<(\w+)>", r"{\1}", rule.rule), {})
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            told = app.view_functions[rule.endpoint].__doc__ or ""
            path[method.lower()] = _operation(rule.endpoint, told, known[rule.endpoint], schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Kamishibai",
            "version": metadata.version("kamishibai"),
            "description": "Small generative models: many clients, one durable queue, shared batches. The shapes of"
            " completions, images, models and errors are OpenAI's; fields of ours come on top.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"key": []}, {}],
        "tags": [{"name": tag} for tag in dict.fromkeys(each.tag for each in known.values())],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": components,
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Needed once there are API keys: `kamishibai keys create NAME` makes one.",
                }
            },
        },
    }


def _schemas(known: list[Operation]) -> tuple[dict[Any, Json], Json]:
    """References by type, and what they refer to."""
    types = [answers.Error, answers.Event, answers.CompletionChunk, answers.Images]
    types += [kind for each in known for kind in (each.answer, each.body) if kind is not None]
    inputs: list[tuple[Any, JsonSchemaMode, TypeAdapter[Any]]] = [
        (kind, "validation", TypeAdapter(kind)) for kind in dict.fromkeys(types)
    ]
    found, described = TypeAdapter.json_schemas(inputs, ref_template="#/components/schemas/{model}")
    return {kind: schema for (kind, _), schema in found.items()}, described["$defs"]


def _operation(endpoint: str, told: str, operation: Operation, schemas: dict[Any, Json]) -> Json:
    summary, _, more = told.partition(". ") if "\n" not in told else told.partition("\n")
    described: Json = {
        "operationId": endpoint.partition(".")[2],
        "tags": [operation.tag],
        "summary": summary.strip().rstrip("."),
        "responses": _responses(endpoint, operation, schemas),
    }
    if more.strip():
        described["description"] = more.strip()
    if endpoint in OPEN_ENDPOINTS:
        described["security"] = []
    if operation.parameters:
        described["parameters"] = list(operation.parameters)
    if operation.body:
        content = {"schema": schemas[operation.body], "example": operation.example}
        described["requestBody"] = {"required": True, "content": {"application/json": content}}
    if operation.form:
        described["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": operation.form}}}
    return described


def _responses(endpoint: str, operation: Operation, schemas: dict[Any, Json]) -> Json:
    """Of every status that the route can answer with."""
    guards = () if endpoint in OPEN_ENDPOINTS else _GUARDED
    by_status: dict[int, list[str]] = {500: [KamishibaiError.code]}
    for failure in (*guards, *operation.failures):
        codes = by_status.setdefault(failure.status, [])
        if failure.code not in codes:
            codes.append(failure.code)
    responses = {str(status): _failure(status, codes, schemas) for status, codes in by_status.items()}
    responses |= {str(status): _too_long(status) for status in (414, 431)}
    if operation.answer or operation.content:
        responses[str(operation.status)] = _success(endpoint, operation, schemas)
    if _RANGE in operation.parameters:
        responses["206"] = {**responses["200"], "description": "Partial Content."}
    return dict(sorted(responses.items()))


def _success(endpoint: str, operation: Operation, schemas: dict[Any, Json]) -> Json:
    content: Json = {kind: {"schema": {"type": "string"}} for kind in operation.content}
    if "text/event-stream" in content:
        content["text/event-stream"] = {"schema": schemas[answers.Event]}
    if operation.answer:
        content = {"application/json": {"schema": schemas[operation.answer]}, **content}
    told = [HTTPStatus(operation.status).phrase + "."]
    if "text/event-stream" in content:
        told.append(_EVENTS)
    if scope := SCOPE_OF_ENDPOINT.get(endpoint):
        told.append(f"Where keys are needed, one with the scope {scope}.")
    response: Json = {"description": " ".join(told), "content": content}
    if operation.answer is answers.Job and operation.status == 202:
        response["headers"] = {"Location": {"description": "Where the job can be read.", "schema": {"type": "string"}}}
    if links := _LINKS.get(endpoint):
        parameter, names = links
        response["links"] = {
            name: {"operationId": name, "parameters": {parameter: "$response.body#/id"}} for name in names
        }
    return response


def _too_long(status: int) -> Json:
    """What gunicorn answers before it has read which route is asked."""
    return {
        "description": f"{HTTPStatus(status).phrase}: the request's first line or a header is too long.",
        "content": {"text/html": {"schema": {"type": "string"}}},
    }


def _failure(status: int, codes: list[str], schemas: dict[Any, Json]) -> Json:
    response: Json = {
        "description": f"{HTTPStatus(status).phrase}: {', '.join(f'`{code}`' for code in codes)}.",
        "content": {"application/json": {"schema": schemas[answers.Error]}},
    }
    if status in (429, 503):
        response["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return response
