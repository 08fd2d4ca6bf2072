"""Helpers for tests of the mathematics."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.runtimes import PREFILL_CHUNK, TextBackend, row_bucket

Read = Callable[[TextBackend, int, list[int]], None]
Greedy = Callable[[TextBackend, dict[int, list[int]], int], dict[int, list[int]]]


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of the real data sets."""
    folder = os.environ.get("KAMISHIBAI_TEST_DATA")
    if not folder:
        pytest.skip("KAMISHIBAI_TEST_DATA names no folder")
    return Path(folder)


@pytest.fixture(scope="session")
def read_prompt() -> Read:
    """Empties a slot and reads all tokens of a prompt but the last, which the first decode step feeds."""

    def read(backend: TextBackend, slot: int, prompt: list[int]) -> None:
        backend.reset(slot)
        for start in range(0, len(prompt) - 1, PREFILL_CHUNK):
            backend.prefill([(slot, start, prompt[start : min(start + PREFILL_CHUNK, len(prompt) - 1)])])

    return read


@pytest.fixture(scope="session")
def greedy(read_prompt: Read) -> Greedy:
    """Continues the prompts, given by slot, together; the new tokens by slot."""

    def run(backend: TextBackend, prompts: dict[int, list[int]], count: int) -> dict[int, list[int]]:
        texts = {slot: list(prompt) for slot, prompt in prompts.items()}
        for slot, prompt in prompts.items():
            read_prompt(backend, slot, prompt)
        rows = range(row_bucket(max(prompts) + 1, backend.slots))
        for _ in range(count):
            last = [texts[row][-1] if row in texts else 0 for row in rows]
            positions = [len(texts[row]) - 1 if row in texts else 0 for row in rows]
            logits: Tensor = backend.decode(last, positions, [row in texts for row in rows])
            for slot, text in texts.items():
                text.append(int(logits[slot].argmax()))
        return {slot: text[len(prompts[slot]) :] for slot, text in texts.items()}

    return run


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20240229)
