"""Answers of the OpenAI API, read: what they hold, and when its pieces came."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from cli.bench.calls import Call
from cli.bench.connections import Exchange
from cli.bench.events import events
from cli.bench.outcome import Content
from contracts.errors import KamishibaiError, one_line

KIND_CHARACTERS = 80


class Unusable(KamishibaiError):
    """An answer that is an error, or none at all."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = one_line(kind, KIND_CHARACTERS)


def read(call: Call, exchange: Exchange) -> Content:
    """Raises Unusable."""
    try:
        if exchange.answer.status != 200:
            raise _refusal(exchange.answer.status, exchange.body)
        if call.streams:
            return _stream(exchange)
        answer = json.loads(exchange.body)
        if call.task == "text":
            return _text(answer)
        return _pictures(answer) if call.task == "image" else _labels(answer)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        start = exchange.body[:200].decode(errors="replace")
        raise Unusable("unreadable answer", f"an answer is not of the OpenAI API's form: {start}") from None


def _refusal(status: int, body: bytes) -> Unusable:
    try:
        error = json.loads(body)["error"]
        code, message = error.get("code") or error.get("type"), str(error["message"])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        code, message = None, body[:200].decode(errors="replace")
    return Unusable(f"{status} {code}" if code else f"{status}", message)


def _stream(exchange: Exchange) -> Content:
    texts: dict[int, list[str]] = {}  # the pieces of each choice
    reasons: dict[int, str] = {}
    times: list[float] = []
    usage: dict[str, Any] = {}
    for seconds, chunk in _chunks(exchange):
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            index = choice.get("index", 0)
            if choice["text"]:
                texts.setdefault(index, []).append(choice["text"])
                times.append(seconds)
            if choice.get("finish_reason"):
                reasons[index] = choice["finish_reason"]
    whole = [(index, "".join(texts.get(index, [])), reasons.get(index)) for index in sorted({*texts, *reasons})]
    tokens = usage.get("completion_tokens")
    return Content(
        digest=_digest(whole),
        pieces=tuple(times),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        output_tokens=len(times) if tokens is None else _count(tokens),
        counted="pieces" if tokens is None else "usage",
    )


def _chunks(exchange: Exchange) -> Iterator[tuple[float, dict[str, Any]]]:
    """Those before [DONE]. Raises Unusable for an error among them, and where that is missing."""
    for seconds, data in events(exchange.pieces):
        if data == b"[DONE]":
            return
        chunk = json.loads(data)
        if error := chunk.get("error"):
            raise Unusable(f"stream: {error.get('code') or error.get('type')}", str(error.get("message")))
        yield seconds, chunk
    raise Unusable("broken stream", "a stream ended without [DONE]")


def _text(answer: Any) -> Content:
    choices = [(choice.get("index", 0), choice["text"], choice.get("finish_reason")) for choice in answer["choices"]]
    usage = answer.get("usage") or {}
    tokens = _count(usage.get("completion_tokens"))
    return Content(
        digest=_digest(sorted(choices)),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        output_tokens=tokens,
        counted=None if tokens is None else "usage",
    )


def _pictures(answer: Any) -> Content:
    files = [picture.get("b64_json") or picture["url"] for picture in answer["data"]]
    return Content(digest=_digest(files), pictures=len(files))


def _labels(answer: Any) -> Content:
    tokens = _count((answer.get("usage") or {}).get("prompt_tokens"))
    return Content(digest=_digest(answer["data"]), prompt_tokens=tokens, texts=len(answer["data"]))


def _count(value: Any) -> int | None:
    return None if value is None else int(value)


def _digest(content: Any) -> bytes:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()
