"""Text: OpenAI's completions, at once or streamed."""

from __future__ import annotations

from flask import Blueprint
from flask.typing import ResponseReturnValue

from contracts.errors import NotFound
from contracts.requests import CompletionBody
from server import client
from server.admission import decode, parse
from server.calls import call
from server.responses import event_stream, result_body
from server.services import services
from server.streaming import CallStream

blueprint = Blueprint("completions", __name__)


@blueprint.post("/v1/completions")
def create_completion() -> ResponseReturnValue:
    """Continue a prompt; `stream: true` sends the text as it is written."""
    here = services()
    body = parse(CompletionBody, decode(client.body(here.settings.slow_client_seconds)))
    text_request = here.admission.text(body)
    if body.stream:
        usage = body.stream_options is not None and body.stream_options.include_usage
        return event_stream(CallStream(here, text_request, client.presence(), include_usage=usage))
    return result_body(call(here, text_request, client.presence()), here.jobs)


@blueprint.post("/v1/chat/completions")
def create_chat_completion() -> ResponseReturnValue:
    """Not offered; says what to use instead."""
    raise NotFound("These models continue texts and know no chat; send a 'prompt' to POST /v1/completions.")
