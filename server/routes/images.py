"""Pictures: OpenAI's image generations."""

from __future__ import annotations

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from contracts.requests import ImageBody
from server.admission import decode, parse
from server.calls import call
from server.client import presence
from server.responses import result_body
from server.services import services

blueprint = Blueprint("images", __name__)


@blueprint.post("/v1/images/generations")
def create_images() -> ResponseReturnValue:
    """Draw `n` pictures, as base64 PNG."""
    here = services()
    image_request = here.admission.image(parse(ImageBody, decode(request.get_data())))
    return result_body(call(here, image_request, presence(request.environ)), here.jobs)
