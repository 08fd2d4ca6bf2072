"""What is noted of every request: its id, its counters, and its line in the log."""

from __future__ import annotations

import logging
import time
import uuid

from flask import Response, g, has_request_context, request

from contracts.logs import REQUESTS
from contracts.orders import REQUEST_ID
from server.access import PROBES
from server.services import services

UNKNOWN_ROUTE = "unknown"  # all of them: a label must not have as many values as there are paths

log = logging.getLogger(REQUESTS)


def begin() -> None:
    """Give the current request its id: the client's own, if that is a sane one."""
    given = request.headers.get("x-request-id", "")
    g.request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
    g.began_at = time.monotonic()


def end(response: Response) -> Response:
    """The answer is ready; it is noted when its last byte has been handed over."""
    response.headers["x-request-id"] = g.request_id
    if "cache" in g:
        response.headers["x-kamishibai-cache"] = g.cache
    # NOTE: what is noted holds no response: one that is never read would end as garbage, collected anywhere.
    method, status, route = request.method, response.status_code, _route()
    level = logging.DEBUG if request.endpoint in PROBES else logging.INFO  # probes ask every few seconds
    told, counters = g._get_current_object(), services().counters

    def note() -> None:
        seconds = time.monotonic() - told.began_at
        code = told.get("error_code", "")
        counters.count(method, route, status, code, seconds)
        if not log.isEnabledFor(level):
            return
        fields = {"method": method, "route": route, "status": status, "seconds": round(seconds, 6)}
        ids = {"request_id": told.request_id, "job_id": told.get("job_id")}
        log.log(level, "%s %s %d", method, route, status, extra=fields | ids | {"code": code or None})

    if response.is_streamed:
        response.call_on_close(note)
    else:
        note()
    return response


def _route() -> str:
    return request.url_rule.rule if request.url_rule else UNKNOWN_ROUTE


class RequestIds(logging.Filter):
    """Puts the ids of the current request, and of its job, on every line."""

    def filter(self, record: logging.LogRecord) -> bool:
        if has_request_context():
            for name in ("request_id", "job_id"):
                if not hasattr(record, name):
                    setattr(record, name, g.get(name))
        return True
