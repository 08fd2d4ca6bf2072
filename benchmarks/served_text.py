"""Text served over HTTP beside the product's own engine alone: what is left of its speed, in one run.

    python benchmarks/served_text.py [--quick] [--rounds 3] [--cases gpt2,characters] [--write FILE]

- gpt2        GPT-2 124M (random weights), onnx:int8, 32 clients: prompts of about 32 tokens, 128 new ones, top-k 50,
              top-p 0.95
- characters  a character LSTM of 2x128, onnx:int8, 64 clients: prompts of 32 characters, 400 new ones

The engine alone has as many requests at once, each followed by the next as soon as it ends. The server is the product
as it runs: embedded Redis with its append-only file, a server process, a worker and its engine child. `kamishibai
bench` asks it, streamed, and all share this machine's cores. Both take turns; figures are medians over the rounds. The
last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product as pairs
from pathlib import Path
from typing import Any

import tokenizers
import torch
from record import record  # type: ignore[import-not-found] # it lies beside this script
from safetensors.torch import save_file
from sides import product  # type: ignore[import-not-found] # it lies beside this script

from contracts.bundle import TOKENIZER, WEIGHTS, Bundle
from contracts.requests import TextRequest
from contracts.store import Store
from contracts.tokenizers import BpeTokenizer, CharacterTokenizer
from export.onnx_gpt2 import write_onnx_gpt2
from export.onnx_lstm import write_onnx_lstm
from models.gpt2 import Gpt2, Gpt2Config
from models.lstm import LstmConfig, LstmLanguageModel
from models.runtimes.load import load_text
from workers.engines import Done
from workers.engines.text import TextEngine
from workers.processes import python_module

VARIANT = "onnx:int8"
KV_BYTES = 3 << 30
PROMPT_TOKENS = 32
CHARACTERS = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Case:
    name: str
    fill: Callable[[Path], dict[str, object]]
    clients: int
    requests: int
    new_tokens: int
    sampling: dict[str, Any]


def gpt2(folder: Path, quick: bool) -> dict[str, object]:
    width, layers, heads = (96, 2, 4) if quick else (768, 12, 12)
    config = Gpt2Config(50257, 1024, width, layers, heads)
    torch.manual_seed(0)
    save_file(Gpt2(config).state_dict(), folder / WEIGHTS)
    files = write_onnx_gpt2(folder, config, "int8")
    _pairs_of_bytes(config.vocabulary_size).write(folder / TOKENIZER)
    return _manifest("gpt2", vars(config), {"context_tokens": 1024}, "bpe", files)


def _pairs_of_bytes(size: int) -> BpeTokenizer:
    """As many tokens as GPT-2 has: bytes, then pairs of them until there are enough."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    merges = list(pairs(letters, letters))[: size - len(letters) - 1]
    words = ["<|endoftext|>", *letters, *map("".join, merges)]
    model = tokenizers.models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=merges)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return BpeTokenizer(tokenizer)


def characters(folder: Path) -> dict[str, object]:
    config = LstmConfig(len(CHARACTERS), (128, 128))
    torch.manual_seed(0)
    save_file(LstmLanguageModel(config).state_dict(), folder / WEIGHTS)
    files = write_onnx_lstm(folder, config, "int8")
    CharacterTokenizer(CHARACTERS).write(folder / TOKENIZER)
    described = {"vocabulary_size": config.vocabulary_size, "layers": list(config.layers)}
    return _manifest("lstm", described, {"max_tokens": 4096}, "characters", files)


def _manifest(
    family: str, config: dict[str, Any], limits: dict[str, int], tokenizer: str, files: tuple[str, ...]
) -> dict[str, object]:
    variants = [
        {"format": "pytorch", "precision": "fp32", "files": [WEIGHTS]},
        {"format": "onnx", "precision": "int8", "files": list(files)},
    ]
    return {
        "family": family,
        "task": "text",
        "config": config,
        "limits": limits,
        "tokenizer": tokenizer,
        "variants": variants,
        "example": {"prompt": "the"},
    }


def cases(chosen: list[str], quick: bool) -> Iterator[Case]:
    if "gpt2" in chosen:
        sampling = {"top_k": 50, "top_p": 0.95}
        numbers = (4, 8, 8) if quick else (32, 96, 128)
        yield Case("gpt2", lambda folder: gpt2(folder, quick), *numbers, sampling)
    if "characters" in chosen:
        numbers = (4, 8, 20) if quick else (64, 640, 400)
        yield Case("characters", characters, *numbers, {})


def engine_rate(bundle: Bundle, case: Case) -> float:
    """Tokens per second, prompts being read included."""
    torch.set_num_threads(THREADS)
    engine = TextEngine(load_text(bundle, bundle.variant(VARIANT), torch.device("cpu"), KV_BYTES), None, None)
    left = iter(range(case.requests))

    def add(number: int) -> None:
        generator = torch.Generator().manual_seed(number)
        prompt = torch.randint(1, bundle.manifest.config["vocabulary_size"], (PROMPT_TOKENS,), generator=generator)
        request = TextRequest(
            target=bundle.target(VARIANT),
            seed=number,
            prompt_tokens=tuple(prompt.tolist()),
            max_tokens=case.new_tokens,
            ignore_eos=True,
            **case.sampling,
        )
        engine.add(str(number), request)

    began = time.perf_counter()
    for _ in range(case.clients):
        add(next(left))
    while engine.busy:
        for event in engine.collect(engine.launch()).events:
            if isinstance(event, Done) and (number := next(left, None)) is not None:
                add(number)
    return case.requests * case.new_tokens / (time.perf_counter() - began)


def ask(port: int, case: Case) -> dict[str, Any]:
    """The level's measurement, as `kamishibai bench` tells it."""
    url = f"http://127.0.0.1:{port}"
    options = {
        "--model": case.name,
        "--concurrency": str(case.clients),
        "--requests": str(case.requests),
        "--warmup": str(case.clients),
        "--prompt-tokens": str(PROMPT_TOKENS),
        "--new-tokens": str(case.new_tokens),
        "--check": "4",
    }
    words = [word for pair in options.items() for word in pair]
    words += [word for name, value in case.sampling.items() for word in ("--set", f"{name}={value}")]
    command = [*python_module("cli.main"), "bench", url, *words, "--ignore-eos"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own command
    (level,) = json.loads(done.stdout.splitlines()[-1])["levels"]
    return {name: found for name, found in level.items() if name != "series"}


def measure(case: Case, rounds: int) -> dict[str, Any]:
    alone, levels = [], []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        store = Store(folder)
        store.write(case.name, case.fill)
        work = [*python_module("cli.main"), "worker", "--variant", VARIANT, "--kv-memory", "3GiB"]
        side, port = stack.enter_context(product("Kamishibai", folder, work))
        for _ in range(rounds):
            side.pause()
            alone.append(engine_rate(store.open(case.name), case))
            side.resume()
            levels.append(ask(port, case))
    engine = statistics.median(alone)
    served = statistics.median(level["rates"]["output_tokens"] for level in levels)
    return {
        "case": case.name,
        "clients": case.clients,
        "engine": round(engine, 1),
        "served": round(served, 1),
        "ratio": round(served / engine, 3),
        "levels": levels,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny shapes, to see that it runs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", default="gpt2,characters")
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    results = [measure(case, rounds) for case in cases(options.cases.split(","), options.quick)]
    print("| model | clients | engine tokens/s | served tokens/s | of the engine |")
    print("|---|---|---|---|---|")
    for row in results:
        print(
            f"| {row['case']} | {row['clients']} | {row['engine']:,.0f} | {row['served']:,.0f} | {row['ratio']:.0%} |"
        )
    record(options.write, ("torch", "onnxruntime", "redis", "gunicorn"), {"results": results})


THREADS = torch.get_num_threads()

if __name__ == "__main__":
    main()
