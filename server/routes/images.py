"""Pictures: OpenAI's image generations."""

from __future__ import annotations

from flask import Blueprint
from flask.typing import ResponseReturnValue

from contracts.requests import ImageBody
from server import client
from server.admission import decode, parse
from server.calls import call
from server.responses import result_body
from server.services import services

blueprint = Blueprint("images", __name__)


@blueprint.post("/v1/images/generations")
def create_images() -> ResponseReturnValue:
    """Draw `n` pictures, as base64 PNG."""
    here = services()
    image_request = here.admission.image(parse(ImageBody, decode(client.body(here.settings.slow_client_seconds))))
    return result_body(call(here, image_request, client.presence()), here.jobs)
