"""Pictures: OpenAI's image generations."""

from __future__ import annotations

from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue

from contracts.jobs import no_such_job
from contracts.requests import ImageBody
from contracts.results import ImageResult
from server import client
from server.admission import decode, parse
from server.calls import call
from server.responses import result_body, result_of
from server.services import services

blueprint = Blueprint("images", __name__)


@blueprint.post("/v1/images/generations")
def create_images() -> ResponseReturnValue:
    """Draw `n` pictures, as PNG files in base64 or by their URLs."""
    here = services()
    body = parse(ImageBody, decode(client.body(here.settings.slow_client_seconds)))
    image_request = here.admission.image(body)
    cache = body.cache and here.results.can_keep(image_request, seed_given=body.seed is not None)
    return result_body(call(here, image_request, client.presence(), cache=cache), here.jobs)


@blueprint.get("/v1/images/<job_id>/<index>.png")
def read_picture(job_id: str, index: str) -> ResponseReturnValue:
    """One picture of a call or job with `response_format` `url`. Its URL is signed and needs no API key."""
    here = services()
    expires, signature = (request.args.get(name, "") for name in ("expires", "signature"))
    seconds_left = here.picture_urls.seconds_left(job_id, index, expires, signature)
    result = result_of(here.jobs.read(job_id))
    if not isinstance(result, ImageResult):
        raise no_such_job(job_id)
    response = Response(here.jobs.picture(result, int(index)), mimetype="image/png")
    response.headers["Cache-Control"] = f"private, max-age={int(seconds_left)}, immutable"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response
