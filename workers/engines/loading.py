"""From a bundle to a warm engine."""

from __future__ import annotations

from typing import Any

import torch

from contracts.bundle import DEFAULT_VARIANT, Bundle, Variant
from contracts.errors import StoreError
from contracts.requests import ImageRequest, TextRequest
from models.runtimes import TextBackend, onnx, pytorch
from workers.engines import Done, Engine, Request
from workers.engines.image import ImageEngine
from workers.engines.text import TextEngine

_WARM_UP_TOKENS = 4


def load_engine(bundle: Bundle, variant: str, device: torch.device) -> Engine[Any]:
    """The engine of a bundle's variant, warmed up with the bundle's own example. Raises StoreError."""
    variants = {known.name: known for known in bundle.manifest.variants}
    if variant not in variants:
        raise StoreError(f"{bundle.path} has no variant {variant!r}; it has {', '.join(variants)}")
    engine: Engine[Any]
    if bundle.manifest.task == "text":
        backend = _load_backend(bundle, variants[variant], device)
        engine = TextEngine(backend, bundle.tokenizer().end_token, bundle.manifest.limits.context_tokens)
    else:
        engine = ImageEngine(pytorch.load_images(bundle, device))
    _run(engine, example_request(bundle, variant))
    return engine


def _load_backend(bundle: Bundle, variant: Variant, device: torch.device) -> TextBackend:
    if variant.format == "pytorch":
        return pytorch.load_text(bundle, device)
    if device.type != "cpu":
        raise StoreError(f"{bundle.path}: variant {variant.name} runs on a CPU, not on {device}")
    return onnx.load_text(bundle, variant)


def example_request(bundle: Bundle, variant: str = DEFAULT_VARIANT) -> Request:
    """The manifest's example as a request. Raises StoreError if the model cannot read it."""
    target = bundle.target(variant)
    if bundle.manifest.task == "image":
        return ImageRequest(target=target, seed=0, count=1)
    tokens = bundle.tokenizer().encode(bundle.manifest.example.prompt or "")
    if not tokens:
        raise StoreError(f"{bundle.path}: the manifest's example has no prompt that the model can read")
    return TextRequest(target=target, seed=0, prompt_tokens=tuple(tokens), max_tokens=_WARM_UP_TOKENS)


def _run(engine: Engine[Any], request: Request) -> None:
    engine.add("warm-up", request)
    while not any(isinstance(event, Done) for event in engine.collect(engine.launch()).events):
        pass
