"""From a bundle to a warm engine."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import torch

from contracts.bundle import DEFAULT_VARIANT, Bundle, Variant
from contracts.errors import StoreError, from_record
from contracts.requests import ClassifyRequest, ImageRequest, Request, TextRequest, TokenisedText
from contracts.settings import DEFAULT_KV_BYTES
from contracts.tokenizers import vocabulary_faults
from models.bert import BertConfig
from models.dcgan import DcganConfig
from models.gpt2 import Gpt2Config
from models.probe import Probe, probe_classify, probe_images, probe_text
from models.processor import processor
from models.runtimes.load import load_classifier, load_images, load_text
from models.runtimes.onnx_session import installed_builds
from models.weights import read_config
from workers.engines import Done, Engine, Event, Failed
from workers.engines.classify import ClassifyEngine
from workers.engines.image import ImageEngine
from workers.engines.streams import OnStream
from workers.engines.text import TextEngine
from workers.pictures import PNG_ENCODER

_WARM_UP_TOKENS = 4


@dataclass(frozen=True)
class LoadedModel:
    """A warm engine, and what the probe said of its backend.

    Within one fingerprint the same request and seed give the same output, if the variant is batch invariant.
    """

    engine: Engine[Any]
    probe: Probe
    fingerprint: str


def load_model(bundle: Bundle, variant: str, device: torch.device, kv_bytes: int = DEFAULT_KV_BYTES) -> LoadedModel:
    """Load, probe, and warm up with the bundle's own example. Raises StoreError."""
    chosen = bundle.variant(variant)
    if faults := _manifest_faults(bundle):
        raise StoreError(f"{bundle.path} cannot be run: " + "; ".join(faults))
    if device.type != "cuda" or chosen.format == "onnx":
        # How ONNX Runtime's own stream and another one wait for each other was not seen on a GPU.
        return _load(bundle, chosen, device, kv_bytes)
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        loaded = _load(bundle, chosen, device, kv_bytes)
    return replace(loaded, engine=OnStream(loaded.engine, stream))


def _load(bundle: Bundle, chosen: Variant, device: torch.device, kv_bytes: int) -> LoadedModel:
    engine: Engine[Any]
    rows = 1  # that a step has at least
    if bundle.manifest.task == "text":
        text_backend = load_text(bundle, chosen, device, kv_bytes)
        context_tokens = bundle.manifest.limits.context_tokens
        probe = probe_text(text_backend, context_tokens)
        engine = TextEngine(
            text_backend, bundle.tokenizer().end_token, context_tokens, batch_invariant=probe.batch_invariant
        )
        threads, rows = text_backend.threads, text_backend.smallest_rows
    elif bundle.manifest.task == "classify":
        classify_backend = load_classifier(bundle, chosen, device)
        probe = probe_classify(classify_backend)
        engine = ClassifyEngine(classify_backend)
        threads = classify_backend.threads
    else:
        image_backend = load_images(bundle, chosen, device)
        probe = probe_images(image_backend)
        engine = ImageEngine(image_backend)
        threads = image_backend.threads
    _run(engine, example_request(bundle, chosen.name))
    return LoadedModel(engine, probe, fingerprint(bundle, chosen.name, device, threads, rows, probe))


def _manifest_faults(bundle: Bundle) -> list[str]:
    """Where the manifest promises what the model cannot keep: its requests would end the process that runs them all."""
    config, limits = read_config(bundle.manifest.family, bundle.manifest.config), bundle.manifest.limits
    if isinstance(config, DcganConfig):
        pixels = (config.size, config.size)
        return [] if limits.picture_pixels == pixels else [f"it draws {pixels}, not {limits.picture_pixels}"]
    if isinstance(config, BertConfig):
        faults = vocabulary_faults(bundle.encoder_tokenizer(), config.vocabulary_size)
        if (names := len(bundle.labels().names)) != config.labels:
            faults.append(f"it has {config.labels} labels, not {names}")
    else:
        faults = vocabulary_faults(bundle.tokenizer(), config.vocabulary_size)
    if isinstance(config, Gpt2Config | BertConfig) and not 0 < (limits.context_tokens or 0) <= config.context_tokens:
        faults.append(f"its context has {config.context_tokens} tokens, not {limits.context_tokens}")
    return faults


def fingerprint(bundle: Bundle, variant: str, device: torch.device, threads: int, rows: int, probe: Probe) -> str:
    """OpenAI's `system_fingerprint`: changes with the bundle, the variant and whatever may compute other bits."""
    kernels = [torch.__version__, f"{threads} threads", device.type, f"invariant: {probe.batch_invariant}"]
    if device.type == "cuda":
        kernels += [torch.cuda.get_device_name(device), f"{rows} rows"]  # as many as there is memory for
    else:
        kernels += [processor(), torch.backends.cpu.get_cpu_capability()]
    if bundle.variant(variant).format == "onnx":
        kernels += [f"{build} {version}" for build, version in installed_builds().items()]
    if bundle.manifest.task == "image":
        kernels.append(PNG_ENCODER)
    return "fp_" + hashlib.sha256("|".join([bundle.digest, variant, *kernels]).encode()).hexdigest()[:16]


def example_request(bundle: Bundle, variant: str = DEFAULT_VARIANT) -> Request:
    """The manifest's example as a request. Raises StoreError if the model cannot read it."""
    target = bundle.target(variant)
    if bundle.manifest.task == "image":
        return ImageRequest(target=target, seed=0, count=1)
    if bundle.manifest.task == "classify":
        tokenizer, context_tokens = bundle.encoder_tokenizer(), bundle.manifest.limits.context_tokens or 0
        text = tokenizer.cut(tokenizer.encode(bundle.manifest.example.prompt or ""), context_tokens)
        return ClassifyRequest(target=target, texts=(TokenisedText(windows=(tuple(text),)),))
    tokens = bundle.tokenizer().encode(bundle.manifest.example.prompt or "")
    if not tokens:
        raise StoreError(f"{bundle.path}: the manifest's example has no prompt that the model can read")
    return TextRequest(target=target, seed=0, prompt_tokens=tuple(tokens), max_tokens=_WARM_UP_TOKENS)


def _run(engine: Engine[Any], request: Request) -> None:
    """Raises EngineFailed if there is not enough memory even for that."""
    engine.add("warm-up", request)
    events: list[Event] = []
    while not any(isinstance(event, Done) for event in events):
        events = engine.collect(engine.launch()).events
        for event in events:
            if isinstance(event, Failed):
                raise from_record(event.record)
