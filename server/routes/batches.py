"""Batches: many requests in a file, answered in another within a day."""

from __future__ import annotations

from flask import Blueprint
from flask.typing import ResponseReturnValue

from contracts import keys
from contracts.errors import InvalidRequest, NotFound
from contracts.requests import BatchBody
from server import answers, client, queries
from server.access import caller
from server.admission import decode, parse
from server.batches import MOST_BATCHES_LISTED, BatchFault, BatchRecord, no_such_batch
from server.services import services
from server.threads import in_thread

_LISTED = 20

blueprint = Blueprint("batches", __name__)


@blueprint.post("/v1/batches")
def create_batch() -> ResponseReturnValue:
    """Have the requests of a file answered, at low priority."""
    here = services()
    body = parse(BatchBody, decode(client.body(here.settings.slow_client_seconds)))
    scope = None if caller().sees_all else keys.owner(caller().owner)
    try:
        file = in_thread(here.files.find, body.input_file_id, scope)
    except NotFound as error:
        raise NotFound(error.message, param="input_file_id") from None
    if file.purpose != "batch":
        raise InvalidRequest(
            f"'input_file_id' names a file with the purpose {file.purpose}; upload one with the purpose batch",
            param="input_file_id",
        )
    lives = body.output_expires_after
    output_seconds = lives.seconds if lives else here.settings.file_seconds
    return batch_body(here.batches.create(body, caller().owner, output_seconds, caller().limits))


@blueprint.get("/v1/batches")
def list_batches() -> ResponseReturnValue:
    """The caller's batches, the newest first."""
    found = services().batches.page(
        caller().owner,
        everyone=caller().sees_all,
        limit=queries.count("limit", MOST_BATCHES_LISTED, _LISTED),
        after=queries.text("after"),
    )
    ids = [record.id for record in found.batches]
    return {
        "object": "list",
        "data": [batch_body(record) for record in found.batches],
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
        "has_more": found.has_more,
    }


@blueprint.get("/v1/batches/<batch_id>")
def read_batch(batch_id: str) -> ResponseReturnValue:
    """A batch as it is."""
    return batch_body(_visible(batch_id))


@blueprint.post("/v1/batches/<batch_id>/cancel")
def cancel_batch(batch_id: str) -> ResponseReturnValue:
    """Cancel a batch. What has been answered can be read once it is `cancelled`."""
    return batch_body(services().batches.cancel(_visible(batch_id).id))


def batch_body(record: BatchRecord) -> answers.Batch:
    """OpenAI's batch object."""
    return {
        "id": record.id,
        "object": "batch",
        "endpoint": record.endpoint,
        "errors": {"object": "list", "data": [fault_body(fault) for fault in record.errors]} if record.errors else None,
        "input_file_id": record.input_file_id,
        "completion_window": "24h",
        "status": record.status,
        "output_file_id": record.output_file_id if record.ended else None,
        "error_file_id": record.error_file_id if record.ended else None,
        "created_at": record.created_at,
        "in_progress_at": record.in_progress_at,
        "expires_at": record.expires_at,
        "finalizing_at": record.finalizing_at,
        "completed_at": record.completed_at,
        "failed_at": record.failed_at,
        "expired_at": record.expired_at,
        "cancelling_at": record.cancelling_at,
        "cancelled_at": record.cancelled_at,
        "request_counts": {"total": record.total, "completed": record.completed, "failed": record.failed},
        "metadata": record.metadata,
    }


def fault_body(fault: BatchFault) -> answers.BatchError:
    return {"code": fault.code, "message": fault.message, "param": fault.param, "line": fault.line}


def _visible(batch_id: str) -> BatchRecord:
    """A batch of the caller's own; those of others are as unknown to it as those that never were."""
    record = services().batches.read(batch_id)
    if not caller().sees(record.owner):
        raise no_such_batch(batch_id)
    return record
