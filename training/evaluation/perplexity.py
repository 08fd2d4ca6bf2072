"""The perplexity of a model of the store on held-out text."""

from __future__ import annotations

import torch

from contracts.bundle import DEFAULT_VARIANT, Bundle
from contracts.errors import StoreError
from models.perplexity import surprise
from models.runtimes.load import load_text
from training.evaluation.report import Perplexity

MOST_NATS = 700.0  # per token: e to this power is about the largest number


def perplexity_of(bundle: Bundle, text: str, device: str = "cpu", *, show_progress: bool = False) -> Perplexity:
    """In `pytorch:fp32`. Raises StoreError for a model that writes no text, and for a text that is too short."""
    manifest = bundle.manifest
    if manifest.task != "text":
        raise StoreError(f"{manifest.name} is for {manifest.task}; perplexity is measured of models that write text")
    tokens = bundle.tokenizer().encode(text)
    if len(tokens) < 2:
        raise StoreError(f"the text has {len(tokens)} tokens of {manifest.name}; give a longer one")
    backend = load_text(bundle, bundle.variant(DEFAULT_VARIANT), torch.device(device))
    found = surprise(backend, tokens, manifest.limits.context_tokens, show_progress=show_progress)
    if not found.nats / found.tokens < MOST_NATS:
        raise StoreError(f"{manifest.name} gives {found.nats / found.tokens:g} nats per token; its weights are spoiled")
    return Perplexity(
        model=f"{manifest.name}@{manifest.version}",
        variant=DEFAULT_VARIANT,
        tokens=found.tokens,
        characters=len(text),
        nats_per_token=found.nats / found.tokens,
        perplexity=found.perplexity,
        nats_per_character=found.nats / len(text),
    )
