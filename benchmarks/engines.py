"""Engine speed beside a peer in the same run: no HTTP, no Redis.

    python benchmarks/engines.py [--device cpu] [--quick]

Random weights of the real shapes (speed does not depend on their values); the same lengths, threads and precision for
both. Peers: for LSTMs the loop that people write (`nn.LSTM`, softmax, multinomial), for GPT-2 `transformers` generate.
Every figure is the median of several runs, engine and peer taking turns. Tokens per second in all, prefill included.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import transformers
from record import record  # type: ignore[import-not-found] # it lies beside this script
from torch import nn

from contracts.requests import Target, TextRequest
from models.gpt2 import Gpt2, Gpt2Config
from models.lstm import LstmConfig, LstmLanguageModel
from models.runtimes.pytorch import Gpt2Backend, LstmBackend
from workers.engines.text import TextEngine

TARGET = Target(model="benchmark", version=1, variant="pytorch:fp32")


@dataclass(frozen=True)
class Case:
    name: str
    vocabulary_size: int
    prompt_tokens: int
    new_tokens: int
    engine: TextEngine
    peer: Callable[[int, int, int], None]  # rows, prompt tokens, new tokens


def character_lstm(device: torch.device, quick: bool) -> Case:
    vocabulary, layers = 65, (128, 128)
    model = LstmLanguageModel(LstmConfig(vocabulary, layers)).eval().requires_grad_(False)
    backend = LstmBackend(model.to(device), device)
    peer_model = nn.LSTM(vocabulary, layers[0], len(layers), batch_first=True).to(device).eval()
    peer_head = nn.Linear(layers[-1], vocabulary).to(device)

    @torch.inference_mode()
    def peer(rows: int, prompt_tokens: int, new_tokens: int) -> None:
        prompt = torch.randint(0, vocabulary, (rows, prompt_tokens), device=device)
        hidden, state = peer_model(nn.functional.one_hot(prompt, vocabulary).float())
        for _ in range(new_tokens):
            drawn = torch.multinomial(peer_head(hidden[:, -1]).softmax(-1), 1)
            hidden, state = peer_model(nn.functional.one_hot(drawn, vocabulary).float(), state)

    return Case("character LSTM 2x128", vocabulary, 8, 50 if quick else 200, TextEngine(backend, None, None), peer)


def gpt2(device: torch.device, quick: bool) -> Case:
    width, layers, heads = (96, 2, 4) if quick else (768, 12, 12)
    config = Gpt2Config(50257, 1024, width, layers, heads)
    backend = Gpt2Backend(Gpt2(config).eval().requires_grad_(False).to(device), device)
    peer_config = transformers.GPT2Config(n_embd=width, n_layer=layers, n_head=heads)
    peer_model = transformers.GPT2LMHeadModel(peer_config).eval().to(device)

    @torch.inference_mode()
    def peer(rows: int, prompt_tokens: int, new_tokens: int) -> None:
        prompt = torch.randint(0, 50256, (rows, prompt_tokens), device=device)
        peer_model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
            do_sample=True,
            top_k=50,
            top_p=0.95,
            pad_token_id=50256,
        )

    name = "GPT-2 tiny" if quick else "GPT-2 124M"
    return Case(name, 50257, 32, 8 if quick else 64, TextEngine(backend, None, config.context_tokens), peer)


def run_engine(case: Case, rows: int) -> None:
    for row in range(rows):
        prompt = torch.randint(0, case.vocabulary_size - 1, (case.prompt_tokens,)).tolist()
        request = TextRequest(
            target=TARGET, seed=row, prompt_tokens=tuple(prompt), max_tokens=case.new_tokens, top_k=50, top_p=0.95
        )
        case.engine.add(str(row), request)
    while case.engine.busy:
        case.engine.collect(case.engine.launch())


def measure(case: Case, rows: int, runs: int) -> dict[str, object]:
    """Medians of engine and peer, which take turns so that a noisy minute hits both."""
    engine_seconds, peer_seconds = [], []
    for _ in range(runs):
        started = time.perf_counter()
        run_engine(case, rows)
        engine_seconds.append(time.perf_counter() - started)
        started = time.perf_counter()
        case.peer(rows, case.prompt_tokens, case.new_tokens)
        peer_seconds.append(time.perf_counter() - started)
    tokens = rows * case.new_tokens
    engine, peer = tokens / statistics.median(engine_seconds), tokens / statistics.median(peer_seconds)
    return {"case": case.name, "rows": rows, "engine": round(engine, 1), "peer": round(peer, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="tiny shapes, to see that it runs")
    options = parser.parse_args()
    device = torch.device(options.device)
    results = []
    print(f"{'case':24}{'rows':>6}{'engine':>12}{'peer':>12}{'ratio':>8}   tokens/s")
    for case in (character_lstm(device, options.quick), gpt2(device, options.quick)):
        for rows in (1, 8) if options.quick else (1, 8, min(32, case.engine.capacity)):
            result = measure(case, rows, runs=1 if options.quick else 3)
            ratio = float(str(result["engine"])) / float(str(result["peer"]))
            print(f"{case.name:24}{rows:>6}{result['engine']:>12}{result['peer']:>12}{ratio:>8.2f}")
            results.append(result)
    record(None, ("torch", "transformers"), {"device": str(device), "results": results})


if __name__ == "__main__":
    main()
