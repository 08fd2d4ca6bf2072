"""What becomes of an exception: every one ends as OpenAI's error object, never as a traceback."""

from __future__ import annotations

import logging
import math

from flask import Response, g, has_request_context, jsonify, request
from redis import RedisError
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from contracts.errors import (
    BodyTooLarge,
    InvalidRequest,
    KamishibaiError,
    NotFound,
    QueueUnavailable,
    RangeNotSatisfiable,
    RateLimited,
    StorageFull,
    Unauthenticated,
)
from server import client
from server.services import services

RETRY_AFTER_SECONDS = 2

log = logging.getLogger(__name__)


class MethodNotAllowed(InvalidRequest):
    status, code = 405, "method_not_allowed"


_OF_HTTP_STATUS: dict[int | None, type[KamishibaiError]] = {
    404: NotFound,
    405: MethodNotAllowed,
    416: RangeNotSatisfiable,
}


def to_error(exception: Exception) -> KamishibaiError:
    """The error that a client is told. What it should not have to know of goes to the log."""
    error = _known(exception)
    g.error_code = error.code
    return error


def _known(exception: Exception) -> KamishibaiError:
    if isinstance(exception, KamishibaiError):
        return exception
    if isinstance(exception, RequestEntityTooLarge):
        return BodyTooLarge(
            f"The body is larger than the {request.max_content_length} bytes that are taken; send less."
        )
    if isinstance(exception, HTTPException):
        kind = _OF_HTTP_STATUS.get(exception.code, InvalidRequest)
        return kind(f"{exception.description} GET / lists the routes.")
    if isinstance(exception, RedisError):
        log.error("request %s: Redis: %s", _request_id(), exception)
        return QueueUnavailable("The queue cannot be reached or takes nothing right now; try again in a moment.")
    log.error("request %s failed in a way that nobody foresaw", _request_id(), exc_info=exception)
    return KamishibaiError("The server failed at this request; its log has the details under the x-request-id.")


def error_response(exception: Exception) -> Response:
    """The HTTP answer to an exception."""
    error = to_error(exception)
    if isinstance(error, BodyTooLarge | StorageFull | Unauthenticated):
        client.discard_body(services().settings.slow_client_seconds)
    response = jsonify(error.body())
    response.status_code = error.status
    # OpenAI's clients repeat every 409 and 5xx unless told otherwise; a job that kills its worker should run once.
    response.headers["x-should-retry"] = "true" if error.retryable else "false"
    if error.retryable:
        response.headers["Retry-After"] = str(_retry_after_seconds(error))
    if isinstance(error, Unauthenticated):
        response.headers["WWW-Authenticate"] = 'Bearer realm="kamishibai"'
    if isinstance(exception, HTTPException):
        told = ("Allow", "Content-Range")
        response.headers.extend([header for header in exception.get_headers() if header[0] in told])
    return response


def _retry_after_seconds(error: KamishibaiError) -> int:
    known = error.retry_after_seconds if isinstance(error, RateLimited) else None
    return RETRY_AFTER_SECONDS if known is None else max(1, math.ceil(known))


def _request_id() -> str:
    return str(g.get("request_id", "-")) if has_request_context() else "-"
