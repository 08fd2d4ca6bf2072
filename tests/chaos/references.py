"""The one right content of every distinct request: what its seed gives when it runs alone, in this process."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from contracts.requests import ImageRequest, TextRequest
from contracts.store import Store
from tests.chaos.orders import BODIES, Body
from workers.local import LocalModel

Content = list[str]  # a text per choice, or the digest of all pictures


def references(store: Store) -> list[Content]:
    """By index in BODIES."""
    models = {name: LocalModel(store.open(name)) for name in store.names()}
    return [_alone(models[body["model"]], body) for body in BODIES]


def content_of(answer: dict[str, Any]) -> Content:
    """The content of a completion or of pictures, as the API answers them."""
    if "data" in answer:
        return _digest([picture["b64_json"] for picture in answer["data"]])
    return [choice["text"] for choice in answer["choices"]]


def _alone(model: LocalModel, body: Body) -> Content:
    target = model.bundle.target()
    if body["model"] == "faces":
        pictures = model.pictures(ImageRequest(target=target, seed=body["seed"], count=body["n"]))
        return _digest([base64.b64encode(picture).decode() for picture in pictures])
    fields = {name: value for name, value in body.items() if name not in {"model", "prompt"}}
    tokens = tuple(model.bundle.tokenizer().encode(body["prompt"]))
    result = model.text(TextRequest(target=target, prompt_tokens=tokens, **fields))
    return [choice.text for choice in result.choices]


def _digest(pictures: list[str]) -> Content:
    return [hashlib.sha256(json.dumps(pictures).encode()).hexdigest()]
