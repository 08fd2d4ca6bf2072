"""On real text, in the time that a test has, each kind of model beats one that knows only how frequent tokens are."""

from __future__ import annotations

from itertools import chain

import pytest

from contracts.run import RUN, RunDescription
from tests.training.conftest import objective_of, train
from tests.training.test_trainer import unigram_nats
from training.data import anime
from training.data.cleaning import Cleaning
from training.data.tables import Table
from training.recipes import SCRATCH, CharLstmRecipe, Gpt2Recipe, WordLstmRecipe
from training.texts import Texts, read_texts

pytestmark = pytest.mark.data

CHARACTERS = CharLstmRecipe(
    layers=(128,), layout="rows", chunk_tokens=32, batch_rows=16, epochs=1, optimizer="adam", learning_rate=5e-3
)
WORDS = WordLstmRecipe(
    layers=(128,), embedding=64, fewest_occurrences=3, batch_rows=16, dropout=0.2, epochs=4, learning_rate=5e-3
)
TOKENS = Gpt2Recipe(
    model=SCRATCH,
    vocabulary_size=1000,
    context_tokens=128,
    width=96,
    blocks=2,
    layout="packed",
    block_tokens=128,
    batch_rows=8,
    epochs=1,
    learning_rate=3e-3,
    dropout=0.0,
)


@pytest.fixture(scope="module")
def synopses(data_folder):
    tables = (Table(data_folder / name) for name in ("anime_synopses.csv",))
    records = list(anime.records(chain.from_iterable(tables), Cleaning(anime.rules()), 0.05, 0))[:900]
    train_texts = [record.text for record in records if record.split == "train"]
    return Texts(train_texts, [record.text for record in records if record.split == "validation"])


def validation_loss(run):
    return RunDescription.model_validate_json((run / RUN).read_bytes()).metrics["validation_loss"]


def test_a_character_lstm_learns_shakespeare(data_folder, tmp_path):
    texts = read_texts(data_folder / "tinyshakespeare.txt", 0.0625)
    texts = Texts([texts.train[0][:400_000]], [texts.validation[0][:40_000]])
    run = train(tmp_path / "run", CHARACTERS, texts)
    assert validation_loss(run) < 0.75 * unigram_nats(objective_of(CHARACTERS, texts).tokenizer, texts)


@pytest.mark.parametrize(("recipe", "share"), [(WORDS, 0.93), (TOKENS, 0.93)], ids=["words", "tokens"])
def test_models_of_words_and_tokens_learn_synopses(recipe, share, synopses, tmp_path):
    run = train(tmp_path / "run", recipe, synopses)
    assert validation_loss(run) < share * unigram_nats(objective_of(recipe, synopses).tokenizer, synopses)
