"""Text: OpenAI's completions, at once or streamed."""

from __future__ import annotations

from flask import Blueprint
from flask.typing import ResponseReturnValue

from contracts.errors import NotFound
from contracts.requests import CompletionBody
from server import client
from server.admission import decode, parse
from server.calls import call_all
from server.responses import completion_body, event_stream
from server.services import services
from server.streaming import CallStream

blueprint = Blueprint("completions", __name__)


@blueprint.post("/v1/completions")
def create_completion() -> ResponseReturnValue:
    """Continue a prompt, or each of a list of prompts; `stream: true` sends the text as it is written."""
    here = services()
    body = parse(CompletionBody, decode(client.body(here.settings.slow_client_seconds)))
    text_requests = here.admission.texts(body)
    if body.stream:
        usage = body.stream_options is not None and body.stream_options.include_usage
        return event_stream(CallStream(here, text_requests, client.presence(), include_usage=usage))
    cache = body.cache and here.results.can_keep(text_requests[0], seed_given=body.seed is not None)
    return completion_body(call_all(here, text_requests, client.presence(), cache=cache))


@blueprint.post("/v1/chat/completions")
def create_chat_completion() -> ResponseReturnValue:
    """Not offered; says what to use instead."""
    raise NotFound("These models continue texts and know no chat; send a 'prompt' to POST /v1/completions.")
