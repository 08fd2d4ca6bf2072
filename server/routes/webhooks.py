"""Webhooks: the secret by which their receiver knows that they are ours."""

from __future__ import annotations

from flask import Blueprint
from flask.typing import ResponseReturnValue

from server import answers
from server.access import caller
from server.services import services
from server.webhook_secrets import WebhookSecret

blueprint = Blueprint("webhooks", __name__)


@blueprint.get("/v1/webhooks/secret")
def read_secret() -> ResponseReturnValue:
    """What signs the caller's webhooks."""
    return _answer(services().webhook_secrets.read(caller().owner))


@blueprint.post("/v1/webhooks/secret/rotate")
def rotate_secret() -> ResponseReturnValue:
    """Sign with a new secret, and for a day with the one before, too."""
    return _answer(services().webhook_secrets.rotate(caller().owner))


def _answer(secret: WebhookSecret) -> ResponseReturnValue:
    body: answers.WebhookSecret = {
        "object": "webhook_secret",
        "secret": secret.current,
        "previous_expires_at": secret.previous_expires_at,
    }
    return body, 200, {"Cache-Control": "no-store"}
