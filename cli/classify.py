"""`kamishibai classify`: texts of the command line, labelled in this process."""

from __future__ import annotations

import json
from pathlib import Path

import click
from pydantic import ValidationError

from cli.devices import devices
from cli.generate import load
from contracts.errors import InvalidRequest
from contracts.requests import ClassifyRequest, LongTexts, TokenisedText, describe
from contracts.results import Classification
from contracts.store import Store, split_name
from workers.local import LocalModel

BAR_CHARACTERS = 30
TITLE_CHARACTERS = 76


def classify(
    model: str,
    texts: tuple[str, ...],
    store: Path,
    device: str,
    variant: str | None,
    threshold: float | None,
    top_k: int | None,
    long_texts: LongTexts,
    as_json: bool,
) -> None:
    """A table per text, or one line of JSON for each. Raises StoreError, InvalidRequest, EngineFailed."""
    bundle = Store(store).open(*split_name(model))
    if bundle.manifest.task != "classify":
        raise InvalidRequest(f"{model} is for {bundle.manifest.task}; use it with: kamishibai generate {model}")
    local = load(bundle, devices(device)[0], variant)
    result = local.labels(request_of(local, texts, threshold, top_k, long_texts))
    for text, found in zip(texts, result.classifications, strict=True):
        click.echo(json.dumps(found.model_dump(mode="json"), ensure_ascii=False) if as_json else table(text, found))


def request_of(
    local: LocalModel,
    texts: tuple[str, ...],
    threshold: float | None,
    top_k: int | None,
    long_texts: LongTexts = "truncate",
) -> ClassifyRequest:
    """Raises InvalidRequest."""
    tokenizer, most = local.bundle.encoder_tokenizer(), local.bundle.manifest.limits.context_tokens
    try:
        read = []
        for tokens in map(tokenizer.encode, texts):
            room = most or len(tokens)
            if len(tokens) > room and long_texts == "refuse":
                raise InvalidRequest(f"a text has {len(tokens)} tokens; {local.bundle.manifest.name} reads {room}")
            windows = tokenizer.windows(tokens, room) if long_texts == "average" else [tokenizer.cut(tokens, room)]
            cut = long_texts == "truncate" and len(tokens) > room
            read.append(TokenisedText(windows=tuple(map(tuple, windows)), truncated=cut))
        return ClassifyRequest(target=local.bundle.target(), texts=tuple(read), threshold=threshold, top_k=top_k)
    except ValidationError as error:
        raise InvalidRequest(describe(error)) from None


def table(text: str, found: Classification) -> str:
    """Labels with their probabilities as bars, those that apply in bold."""
    title = " ".join(text.split())
    if len(title) > TITLE_CHARACTERS:
        title = f"{title[: TITLE_CHARACTERS - 3]}..."
    cut = f" (its first {found.tokens} tokens)" if found.truncated else ""
    if found.windows > 1:
        cut = f" (mean of {found.windows} windows)"
    width = max(len(score.label) for score in found.scores)
    lines = [f"{title}{cut}"]
    for score in found.scores:
        applies = score.label in found.labels
        bar = "█" * round(score.score * BAR_CHARACTERS)
        line = f"{'*' if applies else ' '} {score.label.ljust(width)}  {score.score:6.1%}  {bar}"
        lines.append(click.style(line.rstrip(), bold=applies))
    return "\n".join(lines) + "\n"
