"""Files: what batches read and write."""

from __future__ import annotations

import re

from flask import Blueprint, Response
from flask.typing import ResponseReturnValue

from contracts import keys
from contracts.errors import InvalidRequest, NotFound
from contracts.requests import FileForm
from server import answers, queries
from server.access import caller
from server.admission import parse
from server.file_pieces import FilePieces
from server.files import MOST_FILES_LISTED, StoredFile
from server.services import services
from server.threads import in_thread
from server.uploads import upload

_NESTED = re.compile(r"(\w+)\[(\w+)\]")

blueprint = Blueprint("files", __name__)


@blueprint.post("/v1/files")
def create_file() -> ResponseReturnValue:
    """Upload a file of requests for a batch, as a form with `file` and `purpose`."""
    here = services()
    with upload(here.files, here.settings.max_file_bytes, here.settings.slow_client_seconds) as received:
        form = parse(FileForm, _fields(received.fields))
        if received.filename is None:
            raise InvalidRequest("'file' is missing; send the form with a file", param="file")
        seconds = form.expires_after.seconds if form.expires_after else None
        owner, content = keys.owner(caller().owner), received.content.path
        stored = in_thread(here.files.keep, content, owner, received.filename, form.purpose, seconds=seconds)
    return file_body(stored)


@blueprint.get("/v1/files")
def list_files() -> ResponseReturnValue:
    """The caller's files, the newest first."""
    found = in_thread(
        services().files.page,
        _scope(),
        limit=queries.count("limit", MOST_FILES_LISTED, MOST_FILES_LISTED),
        after=queries.text("after"),
        newest_first=queries.word("order", ("asc", "desc")) != "asc",
        purpose=queries.word("purpose", ("batch", "batch_output")),
    )
    files = [file_body(each) for each in found.files]
    ids = [each["id"] for each in files]
    return {
        "object": "list",
        "data": files,
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
        "has_more": found.has_more,
    }


@blueprint.get("/v1/files/<file_id>")
def read_file(file_id: str) -> ResponseReturnValue:
    """What is known of a file."""
    return file_body(in_thread(services().files.find, file_id, _scope()))


@blueprint.get("/v1/files/<file_id>/content")
def read_file_content(file_id: str) -> ResponseReturnValue:
    """A file as it was written."""
    here = services()
    stored = in_thread(here.files.find, file_id, _scope())
    try:
        content = in_thread(here.files.path_of(stored).open, "rb")
    except FileNotFoundError:
        raise NotFound(f"The file {file_id} was deleted just now.", param="id") from None
    response = Response(FilePieces(content), mimetype="application/octet-stream")
    response.call_on_close(content.close)  # also where nothing of it was read
    response.content_length = stored.bytes
    response.headers["Content-Disposition"] = f'attachment; filename="{stored.id}.jsonl"'
    response.headers["X-Content-Type-Options"] = "nosniff"  # a client wrote it; no browser is to run it
    return response


@blueprint.delete("/v1/files/<file_id>")
def delete_file(file_id: str) -> ResponseReturnValue:
    """Forget a file. A batch that runs it goes on."""
    here = services()
    stored = in_thread(here.files.find, file_id, _scope())
    in_thread(here.files.delete, stored)
    deleted: answers.FileDeleted = {"id": file_id, "object": "file", "deleted": True}
    return deleted


def file_body(file: StoredFile) -> answers.File:
    """OpenAI's file object."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_at,
        "expires_at": file.expires_at,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
    }


def _scope() -> str | None:
    """Whose files the caller may see; None: all."""
    return None if caller().sees_all else keys.owner(caller().owner)


def _fields(form: dict[str, str]) -> dict[str, object]:
    """A form's fields as JSON would have them: `expires_after[seconds]` is one inside of another."""
    fields: dict[str, object] = {}
    for name, value in form.items():
        found: object = int(value) if value.isascii() and value.isdigit() and len(value) < 10 else value
        if nested := _NESTED.fullmatch(name):
            inner = fields.setdefault(nested[1], {})
            if isinstance(inner, dict):
                inner[nested[2]] = found
        else:
            fields[name] = found
    return fields
