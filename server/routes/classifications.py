"""Labels of texts."""

from __future__ import annotations

from flask import Blueprint
from flask.typing import ResponseReturnValue

from contracts.requests import ClassifyBody
from server import client
from server.admission import decode, parse
from server.calls import call
from server.responses import result_body
from server.services import services

blueprint = Blueprint("classifications", __name__)


@blueprint.post("/v1/classify")
def classify() -> ResponseReturnValue:
    """Say which labels apply to a text, or to each of a list of texts."""
    here = services()
    body = parse(ClassifyBody, decode(client.body(here.settings.slow_client_seconds)))
    classify_request = here.admission.classify(body)
    cache = body.cache and here.results.can_keep(classify_request, seed_given=False)
    return result_body(call(here, classify_request, client.presence(), cache=cache), here.jobs)
