"""Fixtures for tests of training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from training.demo_corpus import write_synopses
from training.gpt2 import gpt2_objective
from training.lstm import char_objective, word_objective
from training.recipes import SCRATCH, CharLstmRecipe, Gpt2Recipe, WordLstmRecipe
from training.run_folder import RunFolder
from training.texts import Texts
from training.trainer import Trainer

SYNOPSES = Texts(write_synopses(40), write_synopses(6, seed=1))
OBJECTIVES: dict[Any, Any] = {
    CharLstmRecipe: char_objective,
    WordLstmRecipe: word_objective,
    Gpt2Recipe: gpt2_objective,
}
SMALL: dict[str, Any] = {
    "windows": CharLstmRecipe(layers=(24, 20), batch_rows=8, chunk_tokens=16, windows_per_epoch=200, epochs=2),
    "rows": CharLstmRecipe(
        layers=(24, 20), layout="rows", batch_rows=8, chunk_tokens=16, epochs=1, dropout=0.1, optimizer="adam"
    ),
    "words": WordLstmRecipe(layers=(24, 24), embedding=12, batch_rows=4, chunk_tokens=10, epochs=2),
    "packed": Gpt2Recipe(
        model=SCRATCH,
        vocabulary_size=400,
        context_tokens=32,
        width=32,
        blocks=2,
        heads=2,
        layout="packed",
        block_tokens=32,
        batch_rows=4,
        epochs=1,
        learning_rate=3e-3,
    ),
    "padded": Gpt2Recipe(
        model=SCRATCH,
        vocabulary_size=400,
        context_tokens=128,
        width=32,
        blocks=2,
        heads=2,
        block_tokens=128,
        batch_rows=4,
        epochs=2,
        learning_rate=3e-3,
    ),
}


@pytest.fixture
def threads() -> Iterator[None]:
    """Two threads, as training has where there are two cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def objective_of(recipe, texts=SYNOPSES):
    return OBJECTIVES[type(recipe)](texts, recipe)


def train(folder, recipe, texts=SYNOPSES, **options):
    options = {"device": "cpu", "show_progress": False, "logs": False, **options}
    return Trainer(objective_of(recipe, texts), RunFolder(folder), **options).run()
