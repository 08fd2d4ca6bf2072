"""Helpers for tests of the mathematics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from contracts.store import Store
from export.huggingface import import_gpt2
from models.runtimes import PREFILL_CHUNK, Chunk, TextBackend, row_bucket
from models.runtimes.pytorch import load_text
from training.gpt2 import train_tokenizer

Oracle = Callable[[Callable[[Path], None], dict[str, Any], float], tuple[Any, TextBackend]]
Read = Callable[[TextBackend, dict[int, list[int]]], None]
Greedy = Callable[[TextBackend, dict[int, list[int]], int], dict[int, list[int]]]


@pytest.fixture(scope="session")
def read_prompts() -> Read:
    """Empties slots and reads their prompts, all but the last tokens, which the first decode step feeds."""

    def read(backend: TextBackend, prompts: dict[int, list[int]]) -> None:
        for slot in prompts:
            backend.reset(slot)
        for start in range(0, max(map(len, prompts.values())) - 1, PREFILL_CHUNK):
            chunks = {slot: prompt[:-1][start : start + PREFILL_CHUNK] for slot, prompt in prompts.items()}
            backend.prefill([Chunk(slot, start, chunk) for slot, chunk in chunks.items() if chunk])

    return read


@pytest.fixture(scope="session")
def greedy(read_prompts: Read) -> Greedy:
    """Continues the prompts, given by slot, together; the new tokens by slot."""

    def run(backend: TextBackend, prompts: dict[int, list[int]], count: int) -> dict[int, list[int]]:
        texts = {slot: list(prompt) for slot, prompt in prompts.items()}
        read_prompts(backend, prompts)
        rows = range(row_bucket(max(prompts) + 1, backend.slots, backend.smallest_rows))
        for _ in range(count):
            last = [texts[row][-1] if row in texts else 0 for row in rows]
            positions = [len(texts[row]) - 1 if row in texts else 0 for row in rows]
            logits: Tensor = backend.decode(last, positions, [row in texts for row in rows])
            for slot, text in texts.items():
                text.append(int(logits[slot].argmax()))
        return {slot: text[len(prompts[slot]) :] for slot, text in texts.items()}

    return run


@pytest.fixture(scope="session")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    """Makes transformers' model with random weights, and our backend of its checkpoint."""
    transformers.utils.logging.set_verbosity_error()

    def make(write_tokenizer: Callable[[Path], None], shape: dict[str, Any], spread: float) -> tuple[Any, TextBackend]:
        folder = tmp_path_factory.mktemp("checkpoint")
        with torch.random.fork_rng():
            torch.manual_seed(4)
            config = transformers.GPT2Config(**shape, initializer_range=spread, bos_token_id=None, eos_token_id=None)
            theirs = transformers.GPT2LMHeadModel(config).eval()
        theirs.save_pretrained(folder)
        write_tokenizer(folder)
        bundle = import_gpt2(folder, Store(folder / "store"), "gpt2")
        return theirs, load_text(bundle, torch.device("cpu"))

    return make


@pytest.fixture(scope="session")
def with_small_tokenizer(oracle: Oracle) -> Callable[[dict[str, Any], float], tuple[Any, TextBackend]]:
    tokenizer = train_tokenizer(["the old castle town by the sea", "a quiet pilot named Akari"] * 4, 300)
    return lambda shape, spread: oracle(lambda folder: tokenizer.write(folder / "tokenizer.json"), shape, spread)


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """For tests of exact bits, which may depend on how work is split among threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20240229)
