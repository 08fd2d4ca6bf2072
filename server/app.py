"""The Flask application: routes, errors, request ids. It computes nothing and keeps nothing."""

from __future__ import annotations

import re
import uuid

from flask import Flask, Response, g, request
from flask.json.provider import DefaultJSONProvider
from redis import Redis

from contracts.connection import connect
from contracts.settings import Settings
from server.failures import error_response
from server.routes import classifications, completions, images, jobs, models, operations
from server.services import EXTENSION, assemble, services

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


def create_app(settings: Settings, connection: Redis | None = None) -> Flask:
    """The application of one server process; without a connection it makes its own to `settings.redis_url`.

    Raises ValueError for a URL that is none of Redis'. Redis itself may still be away.
    """
    app = Flask("kamishibai", static_folder=None)
    app.url_map.merge_slashes = False  # a path with too many is unknown; a redirect would be no answer of the API's
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.json = _json_in_order(app)
    app.extensions[EXTENSION] = assemble(settings, connection or connect(settings.redis_url))
    for module in (completions, images, classifications, models, jobs, operations):
        app.register_blueprint(module.blueprint)
    app.register_error_handler(Exception, error_response)
    app.before_request(_take_request_id)
    app.before_request(_admit)
    app.after_request(_give_request_id)
    return app


def _json_in_order(app: Flask) -> DefaultJSONProvider:
    provider = DefaultJSONProvider(app)
    provider.sort_keys = False  # people read these bodies: the id comes first
    return provider


def _take_request_id() -> None:
    given = request.headers.get("x-request-id", "")
    g.request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _admit() -> None:
    services().access.admit()


def _give_request_id(response: Response) -> Response:
    response.headers["x-request-id"] = g.request_id
    return response
