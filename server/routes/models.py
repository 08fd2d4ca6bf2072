"""Models: what can be asked for right now."""

from __future__ import annotations

from pathlib import Path

from flask import Blueprint, Response
from flask.typing import ResponseReturnValue

from contracts.bundle import REPORTS
from server.responses import model_body
from server.services import services
from server.threads import in_thread

blueprint = Blueprint("models", __name__)


@blueprint.get("/v1/models")
def list_models() -> ResponseReturnValue:
    """The models that workers serve."""
    return {"object": "list", "data": [model_body(entry) for entry in services().catalogue.entries()]}


@blueprint.get("/v1/models/<name>")
def read_model(name: str) -> ResponseReturnValue:
    """One model."""
    return model_body(services().catalogue.resolve(name))


@blueprint.get("/v1/models/<name>/reports/<file>")
def read_report(name: str, file: str) -> ResponseReturnValue:
    """A picture that a model's training has drawn, such as its losses or samples."""
    catalogue = services().catalogue
    content = in_thread(catalogue.read_report, catalogue.resolve(name), file)
    response = Response(content, mimetype=REPORTS[Path(file).suffix])
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response
