"""How speed bends: tokens per second and the 99th percentile against batch size, context, clients and workers.

    python benchmarks/curves.py [--quick] [--curves batch,context,clients,workers] [--write FILE] [--figures FOLDER]

- batch    engines alone, a GPT-2 124M and a character LSTM of 2x128 (random weights, onnx:int8), as many texts at once
- context  the same GPT-2, 8 texts that are already so many tokens long
- clients  the character LSTM served over HTTP, 400 characters a request, asked by `kamishibai bench`
- workers  engines that sleep 50 ms for 8 requests (`echo.py`), so that it is not the processor that they share; 96
           clients over HTTP

The 99th percentile is of the time between two tokens of a text for engines, of a whole answer over HTTP. The last line
is JSON; figures are drawn from what was measured, or from a file with `--draw FILE`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from echo import write_bundle  # type: ignore[import-not-found] # it lies beside this script
from record import record  # type: ignore[import-not-found] # it lies beside this script
from served_text import VARIANT, characters, gpt2  # type: ignore[import-not-found] # likewise
from sides import FOLDER, product  # type: ignore[import-not-found] # likewise

from contracts.bundle import Bundle
from contracts.requests import TextRequest
from contracts.store import Store
from models.runtimes.load import load_text
from workers.engines.text import TextEngine
from workers.processes import python_module

Point = dict[str, Any]  # line, x, rate, p99_ms
KV_BYTES = 5 << 30
ROWS = (1, 2, 4, 8, 16, 32, 64)
CONTEXTS = (32, 128, 256, 512, 992)
CLIENTS = (1, 4, 16, 64, 128, 256)
WORKERS = (1, 2, 3, 4, 6, 8)
ENGINE = {"ECHO_ROWS": "8", "ECHO_SECONDS": "0.05", "KAMISHIBAI_LOG_REQUESTS": "off"}
WORKER_CLIENTS = 96


@dataclass(frozen=True)
class Curve:
    name: str
    x: str
    rate: str
    p99: str
    measure: Callable[[bool], Iterator[Point]]


def batch(quick: bool) -> Iterator[Point]:
    models = (("GPT-2 124M", lambda folder: gpt2(folder, quick), 32), ("character LSTM", characters, 800))
    for name, fill, new_tokens in models:
        with _bundle(fill) as bundle:
            for rows in ROWS[:2] if quick else ROWS:
                yield {"line": name, "x": rows, **_engine(bundle, rows, 8, 4 if quick else new_tokens)}


def context(quick: bool) -> Iterator[Point]:
    with _bundle(lambda folder: gpt2(folder, quick)) as bundle:
        for prompt_tokens in CONTEXTS[:2] if quick else CONTEXTS:
            yield {"line": "8 texts", "x": prompt_tokens, **_engine(bundle, 8, prompt_tokens, 4 if quick else 32)}


@contextmanager
def _bundle(fill: Callable[[Path], dict[str, object]]) -> Iterator[Bundle]:
    with tempfile.TemporaryDirectory() as folder:
        yield Store(Path(folder)).write("model", fill)


def _engine(bundle: Bundle, rows: int, prompt_tokens: int, new_tokens: int) -> Point:
    """Steps of texts that have all been read, after a first run that is not counted."""
    torch.set_num_threads(THREADS)
    engine = TextEngine(load_text(bundle, bundle.variant(VARIANT), torch.device("cpu"), KV_BYTES), None, None)
    for run in range(2):
        for number in range(rows):
            engine.add(f"{run} {number}", _request(bundle, number, prompt_tokens, new_tokens))
        calls = []
        while engine.busy:
            began = time.perf_counter()
            call = engine.collect(engine.launch())
            if call.units:
                calls.append((time.perf_counter() - began, call.units))
    # The first calls also read prompts.
    settled = calls[len(calls) // 4 :]
    between = np.repeat([seconds * rows / units for seconds, units in settled], [units for _, units in settled])
    rate = sum(units for _, units in settled) / sum(seconds for seconds, _ in settled)
    return {"rate": round(rate, 1), "p99_ms": round(1000 * float(np.percentile(between, 99)), 3)}


def _request(bundle: Bundle, number: int, prompt_tokens: int, new_tokens: int) -> TextRequest:
    generator = torch.Generator().manual_seed(number)
    vocabulary_size = bundle.manifest.config["vocabulary_size"]
    prompt = torch.randint(1, vocabulary_size, (prompt_tokens,), generator=generator).tolist()
    sampling: dict[str, Any] = {"top_k": 50, "top_p": 0.95} if bundle.manifest.family == "gpt2" else {}
    return TextRequest(
        target=bundle.target(VARIANT),
        seed=number,
        prompt_tokens=tuple(prompt),
        max_tokens=new_tokens,
        ignore_eos=True,
        **sampling,
    )


def clients(quick: bool) -> Iterator[Point]:
    with tempfile.TemporaryDirectory() as folder:
        Store(Path(folder)).write("model", characters)
        work = [*python_module("cli.main"), "worker", "--variant", VARIANT]
        with product("Kamishibai", Path(folder), work) as (_, port):
            for number in CLIENTS[:2] if quick else CLIENTS:
                level = ask(port, "model", number, 8 if quick else max(40, 6 * number), 8 if quick else 400)
                rate = level["rates"]["output_tokens"]
                yield {"line": "character LSTM", "x": number, "rate": round(rate, 1), "p99_ms": _p99(level)}


def workers(quick: bool) -> Iterator[Point]:
    for count in WORKERS[:2] if quick else WORKERS:
        with tempfile.TemporaryDirectory() as folder:
            write_bundle(Store(Path(folder)))
            works = [[sys.executable, str(FOLDER / "echo.py"), "worker", f"worker-{number}"] for number in range(count)]
            with product("Kamishibai", Path(folder), *works, more=ENGINE) as (_, port):
                level = ask(port, "echo", WORKER_CLIENTS, 100 if quick else 600 * min(count, 4), 20, "--no-stream")
                rate = level["rates"]["requests"]
                yield {"line": f"{WORKER_CLIENTS} clients", "x": count, "rate": round(rate, 1), "p99_ms": _p99(level)}


def ask(port: int, model: str, concurrency: int, requests: int, new_tokens: int, *more: str) -> dict[str, Any]:
    """The level's measurement, as `kamishibai bench` tells it."""
    options = {
        "--model": model,
        "--concurrency": str(concurrency),
        "--requests": str(requests),
        "--warmup": str(concurrency),
        "--prompt-tokens": "20",
        "--new-tokens": str(new_tokens),
        "--check": "0",
    }
    words = [word for pair in options.items() for word in pair]
    command = [*python_module("cli.main"), "bench", f"http://127.0.0.1:{port}", *words, "--ignore-eos", *more]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own command
    (level,) = json.loads(done.stdout.splitlines()[-1])["levels"]
    return dict(level)


def _p99(level: dict[str, Any]) -> float:
    return round(1000 * float(level["models"][0]["latencies"]["end_to_end"]["p99"]), 1)


CURVES = {
    curve.name: curve
    for curve in (
        Curve("batch", "texts at once", "tokens/s", "p99 between tokens, ms", batch),
        Curve("context", "tokens of context", "tokens/s", "p99 between tokens, ms", context),
        Curve("clients", "clients", "tokens/s", "p99 of an answer, ms", clients),
        Curve("workers", "workers", "requests/s", "p99 of an answer, ms", workers),
    )
}


def draw(curve: Curve, points: list[Point], file: Path) -> None:
    """Rate above, 99th percentile below, over the same x, all on logarithmic scales."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    for line in dict.fromkeys(point["line"] for point in points):
        own = [point for point in points if point["line"] == line]
        for each, name in zip(axes, ("rate", "p99_ms"), strict=True):
            each.plot([point["x"] for point in own], [point[name] for point in own], marker="o", label=line)
    for each, label in zip(axes, (curve.rate, curve.p99), strict=True):
        each.set(xscale="log", yscale="log", ylabel=label)
        each.grid(alpha=0.3, which="both", linewidth=0.5)
        each.spines[["top", "right"]].set_visible(False)
        for axis in (each.xaxis, each.yaxis):
            axis.set_major_formatter(lambda value, _: f"{value:,.6g}")
            axis.set_minor_formatter(lambda *_: "")
    ticks = sorted({point["x"] for point in points})
    axes[1].set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes[1].set_xlabel(curve.x)
    axes[0].legend(frameon=False)
    figure.savefig(file, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny shapes and two points each, to see that it runs")
    parser.add_argument("--curves", default=",".join(CURVES))
    parser.add_argument("--draw", type=Path, metavar="FILE", help="measure nothing; draw what lies there")
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="where curve-NAME.png go")
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.draw:
        found = json.loads(options.draw.read_text(encoding="utf-8"))["curves"]
    else:
        found = {name: _shown(name, options.quick) for name in options.curves.split(",")}
        record(options.write, ("torch", "onnxruntime", "redis", "gunicorn"), {"curves": found})
    if options.figures:
        for name, points in found.items():
            draw(CURVES[name], points, options.figures / f"curve-{name}.png")


def _shown(name: str, quick: bool) -> list[Point]:
    curve, points = CURVES[name], []
    print(f"| {name} | {curve.x} | {curve.rate} | {curve.p99} |\n|---|---|---|---|")
    for point in curve.measure(quick):
        print(f"| {point['line']} | {point['x']} | {point['rate']:,} | {point['p99_ms']:,} |", flush=True)
        points.append(point)
    return points


THREADS = torch.get_num_threads()

if __name__ == "__main__":
    main()
