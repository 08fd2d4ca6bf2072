"""Pictures: OpenAI's image generations."""

from __future__ import annotations

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from contracts.jobs import no_such_job
from contracts.requests import ImageBody, ImageRequest
from server import client
from server.admission import decode, parse
from server.calls import call
from server.picture_files import accepted_format, check_accepted, fields_for, file_response
from server.responses import image_result_of, result_body, seed_of
from server.services import services

blueprint = Blueprint("images", __name__)


@blueprint.post("/v1/images/generations")
def create_images() -> ResponseReturnValue:
    """Draw pictures, as files in base64 or by their URLs.

    Where the answer is one file, it comes by itself to clients that accept its type.
    """
    here = services()
    accepted = accepted_format(request.accept_mimetypes)
    body = parse(ImageBody, fields_for(accepted, decode(client.body(here.settings.slow_client_seconds))))
    image_request = here.admission.image(body)
    check_accepted(accepted, image_request)
    fixed = body.seed is not None or body.latents is not None
    cache = body.cache and here.results.can_keep(image_request, seed_given=fixed)
    record = call(here, image_request, client.presence(), cache=cache)
    if accepted is None:
        return result_body(record, here.jobs)
    response = file_response(here.jobs.picture(image_result_of(record), 0), accepted)
    if (seed := seed_of(image_request)) is not None:
        response.headers["x-kamishibai-seed"] = str(seed)
    return response


@blueprint.get("/v1/images/<job_id>/<file>")
def read_picture(job_id: str, file: str) -> ResponseReturnValue:
    """One file of a call or job with `response_format` `url`. Its URL is signed and needs no API key."""
    here = services()
    expires, signature = (request.args.get(name, "") for name in ("expires", "signature"))
    seconds_left = here.picture_urls.seconds_left(job_id, file, expires, signature)
    record = here.jobs.read(job_id)
    if not isinstance(record.request, ImageRequest):
        raise no_such_job(job_id)
    content = here.jobs.picture(image_result_of(record), int(file.partition(".")[0]))
    response = file_response(content, record.request.output_format)
    response.headers["Cache-Control"] = f"private, max-age={int(seconds_left)}, immutable"
    return response
