"""`kamishibai classify`: texts of the command line, labelled in this process."""

from __future__ import annotations

import json
from pathlib import Path

import click
from pydantic import ValidationError

from cli.devices import devices
from cli.generate import load
from contracts.errors import InvalidRequest
from contracts.requests import ClassifyRequest, TokenisedText, describe
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
    as_json: bool,
) -> None:
    """A table per text, or one line of JSON for each. Raises StoreError, InvalidRequest, EngineFailed."""
    bundle = Store(store).open(*split_name(model))
    if bundle.manifest.task != "classify":
        raise InvalidRequest(f"{model} is for {bundle.manifest.task}; use it with: kamishibai generate {model}")
    local = load(bundle, devices(device)[0], variant)
    result = local.labels(request_of(local, texts, threshold, top_k))
    for text, found in zip(texts, result.classifications, strict=True):
        click.echo(json.dumps(found.model_dump(mode="json"), ensure_ascii=False) if as_json else table(text, found))


def request_of(
    local: LocalModel, texts: tuple[str, ...], threshold: float | None, top_k: int | None
) -> ClassifyRequest:
    """Raises InvalidRequest."""
    tokenizer, manifest = local.bundle.encoder_tokenizer(), local.bundle.manifest
    read = []
    for text in texts:
        tokens = tokenizer.encode(text)
        cut = tokenizer.cut(tokens, manifest.limits.context_tokens or len(tokens))
        read.append(TokenisedText(tokens=tuple(cut), truncated=len(cut) < len(tokens)))
    try:
        return ClassifyRequest(
            target=local.bundle.target(),
            texts=tuple(read),
            threshold=local.bundle.labels().threshold if threshold is None else threshold,
            top_k=top_k,
        )
    except ValidationError as error:
        raise InvalidRequest(describe(error)) from None


def table(text: str, found: Classification) -> str:
    """Labels with their probabilities as bars, those that apply in bold."""
    title = " ".join(text.split())
    if len(title) > TITLE_CHARACTERS:
        title = f"{title[: TITLE_CHARACTERS - 3]}..."
    cut = f" (its first {found.tokens} tokens)" if found.truncated else ""
    width = max(len(score.label) for score in found.scores)
    lines = [f"{title}{cut}"]
    for score in found.scores:
        applies = score.label in found.labels
        bar = "█" * round(score.score * BAR_CHARACTERS)
        line = f"{'*' if applies else ' '} {score.label.ljust(width)}  {score.score:6.1%}  {bar}"
        lines.append(click.style(line.rstrip(), bold=applies))
    return "\n".join(lines) + "\n"
