"""The Flask application: routes, errors, request ids. It computes nothing and keeps nothing."""

from __future__ import annotations

from flask import Flask
from flask.json.provider import DefaultJSONProvider
from redis import Redis

from contracts.connection import connect
from contracts.settings import Settings
from server import traffic
from server.failures import error_response
from server.routes import (
    batches,
    bundles,
    classifications,
    completions,
    control,
    files,
    images,
    jobs,
    models,
    operations,
    page,
    webhooks,
)
from server.services import EXTENSION, assemble, services
from server.shared_folder import Place


def create_app(settings: Settings, connection: Redis | None = None, place: Place | None = None) -> Flask:
    """The application of one server process; without a connection it makes its own to `settings.redis_url`, without a
    place it counts alone.

    Raises ValueError for a URL that is none of Redis'. Redis itself may still be away.
    """
    app = Flask("kamishibai", static_folder=None)
    app.url_map.merge_slashes = False  # a path with too many is unknown; a redirect would be no answer of the API's
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.json = _json_in_order(app)
    app.extensions[EXTENSION] = assemble(settings, connection or connect(settings.redis_url), place)
    for module in (
        completions,
        images,
        classifications,
        models,
        bundles,
        jobs,
        files,
        batches,
        webhooks,
        operations,
        page,
        control,
    ):
        app.register_blueprint(module.blueprint)
    app.register_error_handler(Exception, error_response)
    app.before_request(traffic.begin)
    app.before_request(_admit)
    app.after_request(traffic.end)
    return app


def _json_in_order(app: Flask) -> DefaultJSONProvider:
    provider = DefaultJSONProvider(app)
    provider.sort_keys = False  # people read these bodies: the id comes first
    return provider


def _admit() -> None:
    services().access.admit()
