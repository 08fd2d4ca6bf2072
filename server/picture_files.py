"""Files of pictures as answers by themselves, without JSON around them."""

from __future__ import annotations

from typing import Any, get_args

from flask import Response
from werkzeug.datastructures import MIMEAccept

from contracts.errors import InvalidRequest
from contracts.requests import ImageRequest, OutputFormat

MEDIA_TYPES: dict[OutputFormat, str] = {
    "png": "image/png",
    "gif": "image/gif",
    "webp": "image/webp",
    "npy": "application/x-npy",
}
FILE_NAME = rf"(0|[1-9]\d*)\.({'|'.join(get_args(OutputFormat))})"
_FORMATS = {media_type: output_format for output_format, media_type in MEDIA_TYPES.items()}


def accepted_format(accept: MIMEAccept) -> OutputFormat | None:
    """The kind of file that a client would rather have than JSON; None: it takes JSON, or names no kind of ours."""
    return _FORMATS.get(accept.best_match(["application/json", *_FORMATS]) or "")


def fields_for(accepted: OutputFormat | None, fields: dict[str, Any]) -> dict[str, Any]:
    """A body's fields, with the layout of the accepted kind of file where the body says nothing of it."""
    if accepted is None or fields.get("layout") is not None or fields.get("output_format") is not None:
        return fields
    return {**fields, "output_format": accepted} | ({"layout": "grid"} if accepted == "png" else {})


def check_accepted(accepted: OutputFormat | None, request: ImageRequest) -> None:
    """Raises InvalidRequest for an accepted kind of file that the request does not make."""
    if accepted is None or (request.files == 1 and request.output_format == accepted):
        return
    makes = MEDIA_TYPES[request.output_format] if request.files == 1 else f"{request.files} files"
    raise InvalidRequest(
        f"'Accept' is {MEDIA_TYPES[accepted]}, but layout '{request.layout}' makes {makes};"
        " change either, or accept application/json",
        param="layout",
    )


def file_response(content: bytes, output_format: OutputFormat) -> Response:
    response = Response(content, mimetype=MEDIA_TYPES[output_format])
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response
