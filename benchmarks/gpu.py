"""What CUDA graphs bring on a GPU, beside eager steps and peers: no HTTP, no Redis.

    python benchmarks/gpu.py [--seconds 200] [--device cuda] [--quick] [--write FILE]

Random weights of the real shapes. "Tile" is what is served: steps run over 64 slots at a time (LSTM: 256), so that the
number of texts changes no bits; "free" runs over the smallest row bucket that holds the texts; "eager" is the tile
without graphs. Steps: tokens a second of the writer alone, by texts and by steps a call, and by how many positions
attention goes over. Engine: prompts of 32 tokens and 128 new ones (LSTM: 8 and 400), prefill included, beside the path
without graphs and `transformers` generate or the loop over nn.LSTM. Figures are medians. What there was no time for is
named. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from contracts.requests import ImageRequest, Target, TextRequest
from models.dcgan import DcganConfig, fold_batch_norm, generator
from models.gpt2 import Gpt2, Gpt2Config
from models.lstm import LstmConfig, LstmLanguageModel
from models.noise import latents
from models.probe import probe_images, probe_text
from models.runtimes import MOST_SLOTS, LaunchingWriter, Steps, row_bucket
from models.runtimes.cuda_graphs import NoGraphs, Recorder, recorder_for
from models.runtimes.host_copies import Outbox
from models.runtimes.pytorch import (
    GRAPH_ROWS,
    MOST_GPU_SLOTS,
    DcganBackend,
    Gpt2Backend,
    GraphDcganBackend,
    LstmBackend,
)
from workers.engines.image import ImageEngine
from workers.engines.streams import OnStream
from workers.engines.text import TextEngine

TARGET = Target(model="benchmark", version=1, variant="pytorch")
KV_BYTES = 16 << 30
Backend = Gpt2Backend | LstmBackend
Kind = Literal["tile", "free", "eager", "plain"]  # the last one is the path without a writer


@dataclass(frozen=True)
class Model:
    """A text model: how its backends are made, and what is asked of it."""

    name: str
    make: Callable[[Kind], Backend]  # once: recording takes time
    vocabulary_size: int
    context_tokens: int | None
    prompt_tokens: int
    new_tokens: int
    peer_name: str
    peer: Callable[[int], None]  # makes the same number of tokens for so many texts


@dataclass
class Report:
    until: float
    quick: bool
    figures: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def add(self, section: str, **figure: Any) -> None:
        self.figures.append({"section": section, **figure})
        told = "  ".join(
            f"{name}={value:,.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in figure.items()
        )
        print(f"{section:12}{told}", flush=True)

    def run(self, name: str, part: Callable[[], None]) -> None:
        if time.perf_counter() > self.until:
            self.left_out.append(name)
            print(f"no time for {name}", flush=True)
            return
        try:
            part()
        except Exception as error:  # the figures of all other parts are worth having
            traceback.print_exc()
            self.failed.append(f"{name}: {error!r}")


def gpt2(device: torch.device, dtype: torch.dtype, quick: bool) -> Model:
    import transformers

    width, layers, heads = (96, 2, 4) if quick else (768, 12, 12)
    config = Gpt2Config(700 if quick else 50257, 256 if quick else 1024, width, layers, heads)
    module = Gpt2(config).eval().requires_grad_(False).to(device, dtype)
    prompt_tokens, new_tokens = 32, 8 if quick else 128

    @cache
    def make(kind: Kind) -> Backend:
        backend = Gpt2Backend(module, device, (4 << 20) if quick else KV_BYTES)
        if kind != "plain":
            backend.use_graphs(recorder_of(kind, device), None if kind == "free" else GRAPH_ROWS)
        return backend

    peer_config = transformers.GPT2Config(
        vocab_size=config.vocabulary_size, n_embd=width, n_layer=layers, n_head=heads, bos_token_id=0, eos_token_id=0
    )
    peer_model: Any = transformers.GPT2LMHeadModel(peer_config).eval()
    peer_model.to(device, dtype)

    @torch.inference_mode()
    def peer(rows: int) -> None:
        prompt = torch.randint(0, config.vocabulary_size - 1, (rows, prompt_tokens), device=device)
        new = {"min_new_tokens": new_tokens, "max_new_tokens": new_tokens, "pad_token_id": 0}
        peer_model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=True, top_k=0, **new)

    name = f"GPT-2 {'tiny' if quick else '124M'} {_name(dtype)}"
    return Model(
        name, make, config.vocabulary_size, config.context_tokens, prompt_tokens, new_tokens, "transformers", peer
    )


def characters(device: torch.device, quick: bool) -> Model:
    vocabulary, layers = 65, (128, 128)
    module = LstmLanguageModel(LstmConfig(vocabulary, layers)).eval().requires_grad_(False).to(device)
    prompt_tokens, new_tokens = 8, 20 if quick else 400

    @cache
    def make(kind: Kind) -> Backend:
        backend = LstmBackend(module, device, MOST_SLOTS if quick else MOST_GPU_SLOTS)
        if kind != "plain":
            backend.use_graphs(module, recorder_of(kind, device), None if kind == "free" else backend.slots)
        return backend

    peer_model = nn.LSTM(vocabulary, layers[0], len(layers), batch_first=True).to(device).eval()
    peer_head = nn.Linear(layers[-1], vocabulary).to(device)

    @torch.inference_mode()
    def peer(rows: int) -> None:
        prompt = torch.randint(0, vocabulary, (rows, prompt_tokens), device=device)
        hidden, state = peer_model(nn.functional.one_hot(prompt, vocabulary).float())
        for _ in range(new_tokens):
            drawn = torch.multinomial(peer_head(hidden[:, -1]).softmax(-1), 1)
            hidden, state = peer_model(nn.functional.one_hot(drawn, vocabulary).float(), state)

    return Model("characters 2x128", make, vocabulary, None, prompt_tokens, new_tokens, "eager nn.LSTM", peer)


def recorder_of(kind: Kind, device: torch.device) -> Recorder:
    return NoGraphs() if kind == "eager" else recorder_for(device)


def _name(dtype: torch.dtype) -> str:
    return {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype]


def seconds_of(work: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Median over rounds, after one that is not counted."""
    found = []
    for _ in range(rounds + 1):
        _finish(device)
        started = time.perf_counter()
        work()
        _finish(device)
        found.append(time.perf_counter() - started)
    return statistics.median(found[1:])


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def write(backend: Backend, texts: int, steps: int, calls: int, position: int) -> None:
    """Calls of the writer, over as many rows as it takes for so many texts."""
    writer = backend.writer
    if not isinstance(writer, LaunchingWriter):
        raise TypeError("this backend does not draw")
    rows = row_bucket(texts, backend.slots, backend.smallest_rows)
    active = [row < texts for row in range(rows)]
    tokens, drawn = [1] * rows, Steps(np.full((rows, steps), 0.5), np.ones(rows, np.float32))
    for call in range(calls):
        places = [position + call * steps if on else 0 for on in active]
        tokens = writer.launch(tokens, places, active, drawn)().tokens[:, -1].tolist()


def measure_steps(model: Model, device: torch.device, report: Report) -> None:
    """Graphs beside eager steps, the tile beside free buckets, by texts and by steps a call."""
    variants: tuple[Kind, ...] = ("tile", "free", "eager")
    made = 16 if report.quick else 64
    for name in variants:
        backend = model.make(name)
        texts = sorted({1, min(8, backend.slots), min(64, backend.slots), backend.slots})
        sizes = (16,) if report.quick or name == "eager" else (1, 4, 16, 64)
        for rows, steps in [(rows, steps) for rows in texts for steps in sizes]:
            work = partial(write, backend, rows, steps, made // steps, 32)
            rate = rows * made / seconds_of(work, device, 1 if report.quick else 3)
            report.add("steps", model=model.name, variant=name, texts=rows, steps=steps, tokens_per_second=rate)


def measure_lengths(model: Model, device: torch.device, report: Report) -> None:
    """What a step takes by the positions that attention goes over."""
    if model.context_tokens is None:
        return
    backend = model.make("tile")
    texts = min(GRAPH_ROWS, backend.slots)
    for position in (32, model.context_tokens // 2 - 32, model.context_tokens - 32):
        work = partial(write, backend, texts, 16, 1, position)
        seconds = seconds_of(work, device, 1 if report.quick else 5) / 16
        report.add("lengths", model=model.name, position=position, microseconds=1e6 * seconds)


def run_engine(model: Model, engine: Any, rows: int, **sampling: Any) -> None:
    start_texts(model, engine, rows, **sampling)
    while engine.busy:
        engine.collect(engine.launch())


def start_texts(model: Model, engine: Any, rows: int, **sampling: Any) -> None:
    for row in range(rows):
        prompt = tuple((7 * row + 3 * place) % model.vocabulary_size for place in range(model.prompt_tokens))
        request = TextRequest(
            target=TARGET, seed=row, prompt_tokens=prompt, max_tokens=model.new_tokens, ignore_eos=True, **sampling
        )
        engine.add(str(row), request)


def measure_engine(model: Model, device: torch.device, report: Report) -> None:
    """The product's engine, with graphs and with the plain path, beside the peer; everybody takes turns."""
    engines = {
        "engine": TextEngine(model.make("tile"), None, model.context_tokens),
        "plain path": TextEngine(model.make("plain"), None, model.context_tokens),
    }
    runs: dict[str, Callable[[int], None]] = {
        name: partial(run_engine, model, engine) for name, engine in engines.items()
    }
    runs["engine, top-k 50"] = partial(run_engine, model, engines["engine"], top_k=50)
    runs["engine, top-p 0.9"] = partial(run_engine, model, engines["engine"], top_p=0.9)  # drawn outside of graphs
    runs[model.peer_name] = model.peer
    for rows in sorted({1, 8, min(64, engines["engine"].capacity), engines["engine"].capacity}):
        for name, run in runs.items():
            seconds = seconds_of(partial(run, rows), device, 3 if name == "engine" and not report.quick else 1)
            rate = rows * model.new_tokens / seconds
            report.add("engine", model=model.name, variant=name, texts=rows, tokens_per_second=rate)


def measure_invariance(model: Model, device: torch.device, report: Report) -> None:
    variants: tuple[Kind, ...] = ("tile", "free")
    for name in variants:
        started = time.perf_counter()
        backend = model.make(name)
        _finish(device)
        report.add("loading", model=model.name, variant=name, seconds=time.perf_counter() - started)
        probe = probe_text(backend, model.context_tokens)
        equal = f"{sum(probe.equal.values())} of {len(probe.equal)}"
        report.add("invariance", model=model.name, variant=name, invariant=probe.batch_invariant, equal=equal)


def measure_together(models: list[Model], device: torch.device, report: Report) -> None:
    """Engines on streams of their own, one after the other and at the same time."""
    engines = []
    for model in models:
        stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        engines.append(OnStream(TextEngine(model.make("tile"), None, model.context_tokens), stream))

    def in_turn() -> None:
        for model, engine in zip(models, engines, strict=True):
            run_engine(model, engine, 8)

    def together() -> None:
        for model, engine in zip(models, engines, strict=True):
            start_texts(model, engine, 8)
        while busy := [engine for engine in engines if engine.busy]:
            for engine, handle in [(engine, engine.launch()) for engine in busy]:
                engine.collect(handle)

    rounds = 1 if report.quick else 3
    apart, at_once = (seconds_of(work, device, rounds) for work in (in_turn, together))
    names = " and ".join(model.name for model in models)
    report.add("together", models=names, seconds_in_turn=apart, seconds_together=at_once)


def measure_pictures(device: torch.device, dtype: torch.dtype, report: Report) -> None:
    torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32 = True, False  # as `load_images` sets them
    config = DcganConfig(size=16, latent=8, width=4) if report.quick else DcganConfig(size=64, latent=100, width=64)
    folded = fold_batch_norm(generator(config).eval()).to(device, dtype)
    folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stubs leave this one out
    graphs = GraphDcganBackend(folded, config, device, recorder_for(device))
    backends = {"graphs": graphs, "eager": DcganBackend(folded, config.latent, device)}
    name = f"DCGAN {config.size} {_name(dtype)}"
    for pictures in (1, 8, 64):
        noise = latents(1, list(range(pictures)), config.latent)
        for variant, backend in backends.items():
            seconds = seconds_of(partial(backend.draw, noise), device, 1 if report.quick else 20)
            report.add("pictures", model=name, variant=variant, batch=pictures, pictures_per_second=pictures / seconds)
    engine = ImageEngine(graphs)
    numbers = count()

    def run() -> None:
        for _ in range(4):
            engine.add(str(number := next(numbers)), ImageRequest(target=TARGET, seed=number, count=64))
        while engine.busy:
            engine.collect(engine.launch())

    rate = 4 * 64 / seconds_of(run, device, 1 if report.quick else 5)
    report.add("pictures", model=name, variant="engine", batch=64, pictures_per_second=rate)
    probe = probe_images(graphs)
    report.add(
        "invariance",
        model=name,
        variant="graphs",
        invariant=probe.batch_invariant,
        equal=str(sum(probe.equal.values())),
    )


def measure_host(device: torch.device, report: Report) -> None:
    """What it takes until the host knows a number that the device has."""
    outbox = Outbox((17, 64), torch.int64, device)
    number = torch.zeros(1, device=device)

    def told() -> None:
        outbox.send()
        outbox.read()

    ways: dict[str, Callable[[], object]] = {"page-locked copy and event": told, "tensor.item()": number.item}
    for name, work in ways.items():
        report.add("host", way=name, microseconds=1e6 * seconds_of(work, device, 5 if report.quick else 200))


def parts(device: torch.device, quick: bool, report: Report) -> Iterator[tuple[str, Callable[[], None]]]:
    """What matters most comes first."""
    half = torch.float32 if quick else torch.float16
    text, small = gpt2(device, half, quick), characters(device, quick)
    for model in (text, small):
        yield f"invariance of {model.name}", partial(measure_invariance, model, device, report)
        yield f"engine of {model.name}", partial(measure_engine, model, device, report)
    for model in (text, small):
        yield f"steps of {model.name}", partial(measure_steps, model, device, report)
    yield "pictures", partial(measure_pictures, device, half, report)
    yield "two models at once", partial(measure_together, [text, small], device, report)
    yield "lengths", partial(measure_lengths, text, device, report)
    yield "host", partial(measure_host, device, report)
    for dtype in () if quick else (torch.bfloat16, torch.float32):
        other = gpt2(device, dtype, quick)
        yield f"invariance of {other.name}", partial(measure_invariance, other, device, report)
        yield f"engine of {other.name}", partial(measure_engine, other, device, report)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=200, help="nothing is begun after this")
    parser.add_argument("--quick", action="store_true", help="tiny shapes on a CPU, to see that it runs")
    parser.add_argument("--write", type=Path, help="also write the JSON to this file")
    options = parser.parse_args()
    device = torch.device("cpu" if options.quick else options.device)
    report = Report(time.perf_counter() + options.seconds, options.quick)
    for name, part in parts(device, options.quick, report):
        report.run(name, part)
    machine: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
    }
    if device.type == "cuda":
        machine["peak_gigabytes"] = torch.cuda.max_memory_allocated() / 1e9
    parted = {"figures": report.figures, "left_out": report.left_out, "failed": report.failed}
    document = json.dumps({**machine, **parted})
    if options.write:
        options.write.write_text(document + "\n")
    print(document)
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    main()
