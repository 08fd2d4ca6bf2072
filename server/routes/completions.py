"""Text: OpenAI's completions, at once or streamed."""

from __future__ import annotations

from flask import Blueprint, Response
from flask.typing import ResponseReturnValue

from contracts.errors import NotFound
from contracts.requests import CompletionBody, TextRequest
from server import client
from server.admission import decode, parse
from server.calls import call, enqueue_call, longest_wait_seconds
from server.responses import event_stream, result_body
from server.services import services
from server.streaming import JobStream

blueprint = Blueprint("completions", __name__)


@blueprint.post("/v1/completions")
def create_completion() -> ResponseReturnValue:
    """Continue a prompt; `stream: true` sends the text as it is written."""
    here = services()
    body = parse(CompletionBody, decode(client.body(here.settings.slow_client_seconds)))
    text_request = here.admission.text(body)
    if body.stream:
        return _stream(
            text_request, include_usage=body.stream_options is not None and body.stream_options.include_usage
        )
    return result_body(call(here, text_request, client.presence()), here.jobs)


@blueprint.post("/v1/chat/completions")
def create_chat_completion() -> ResponseReturnValue:
    """Not offered; says what to use instead."""
    raise NotFound("These models continue texts and know no chat; send a 'prompt' to POST /v1/completions.")


def _stream(text_request: TextRequest, *, include_usage: bool) -> Response:
    here = services()
    stream = JobStream(
        here.jobs,
        here.waiting,
        enqueue_call(here, text_request),
        offsets=[0] * text_request.n,
        include_usage=include_usage,
        timeout_seconds=longest_wait_seconds(here),
        still_there=client.presence(),
    )
    return event_stream(stream)
