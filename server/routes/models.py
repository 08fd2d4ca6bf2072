"""Models: what can be asked for right now."""

from __future__ import annotations

from flask import Blueprint
from flask.typing import ResponseReturnValue

from server.responses import model_body
from server.services import services

blueprint = Blueprint("models", __name__)


@blueprint.get("/v1/models")
def list_models() -> ResponseReturnValue:
    """The models that workers serve."""
    return {"object": "list", "data": [model_body(entry) for entry in services().catalogue.entries()]}


@blueprint.get("/v1/models/<name>")
def read_model(name: str) -> ResponseReturnValue:
    """One model."""
    return model_body(services().catalogue.resolve(name))
