"""Operations: what load balancers, Prometheus and lost visitors ask."""

from __future__ import annotations

from flask import Blueprint, Response, current_app, request
from flask.typing import ResponseReturnValue
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from contracts.announcements import read_announcements
from contracts.errors import NotReady
from server import page_files
from server.docs_page import docs_page
from server.openapi import document
from server.services import services

blueprint = Blueprint("operations", __name__)


@blueprint.get("/healthz")
def health() -> ResponseReturnValue:
    """200 while this process lives; asks nobody else."""
    return {"status": "alive"}


@blueprint.get("/readyz")
def readiness() -> ResponseReturnValue:
    """200 while Redis answers and a worker is ready; else 503 with the reason."""
    announcements = read_announcements(services().redis)
    ready = [each.worker for each in announcements if each.ready and each.models]
    if not ready:
        starting = ", ".join(each.worker for each in announcements)
        raise NotReady(f"No worker is ready: {f'{starting} still starting' if starting else 'none is there'}.")
    return {"status": "ready", "workers": ready}


@blueprint.get("/metrics")
def metrics() -> ResponseReturnValue:
    """Prometheus metrics of the queue and its workers."""
    return Response(generate_latest(services().metrics), content_type=CONTENT_TYPE_LATEST)


@blueprint.get("/openapi.json")
def openapi() -> ResponseReturnValue:
    """This API as an OpenAPI 3.1 document."""
    return document(current_app, services().settings)


@blueprint.get("/docs")
def docs() -> ResponseReturnValue:
    """That document as a page for people."""
    return docs_page(document(current_app, services().settings), request.host_url.rstrip("/"))


@blueprint.get("/")
def index() -> ResponseReturnValue:
    """This list; for browsers the page for people."""
    if page_files.is_asked_for():
        return page_files.page_response(page_files.INDEX)
    routes = {}
    for rule in current_app.url_map.iter_rules():
        method = ", ".join(sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}))
        routes[f"{method} {rule.rule}"] = current_app.view_functions[rule.endpoint].__doc__
    return {"name": "Kamishibai", "routes": routes}, {"Vary": "Accept"}
