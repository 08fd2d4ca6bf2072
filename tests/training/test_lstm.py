"""LSTMs: rows carry their state on, windows do not; vocabularies; what is validated."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import StoreError
from tests.training.conftest import SMALL, SYNOPSES, objective_of
from training.lstm import char_objective, train_word_tokenizer, word_objective
from training.objective import cross_entropy
from training.texts import Texts

ROWS, WINDOWS, WORDS = SMALL["rows"], SMALL["windows"], SMALL["words"]


def test_the_chunks_of_an_epoch_are_one_long_text_to_each_row():
    objective = objective_of(ROWS.model_copy(update={"dropout": 0.0}))
    objective.module.eval()
    batches = [objective.batch(0, index) for index in range(5)]
    with torch.no_grad():
        chunks = []
        for batch in batches:
            chunks.append(float(objective.loss(objective.module, batch.part(slice(0, 3)), 0)))
            chunks[-1] += float(objective.loss(objective.module, batch.part(slice(3, 8)), 3))
            objective.step_done()
        inputs, targets = (torch.cat([batch[part] for batch in batches], 1) for part in (0, 1))
        logits, _ = objective.module(inputs)
    assert sum(chunks) == pytest.approx(float(cross_entropy(logits, targets)), rel=1e-5)


def test_rows_lie_one_behind_the_other_in_the_text():
    objective = objective_of(ROWS)
    text = objective.tokenizer.encode(SYNOPSES.joined[0])
    time = len(text) // ROWS.batch_rows
    batch = objective.batch(0, 2)
    for row in range(ROWS.batch_rows):
        begin = row * time + 2 * ROWS.chunk_tokens
        assert batch.inputs[row].tolist() == text[begin : begin + ROWS.chunk_tokens]
        assert batch.targets[row].tolist() == text[begin + 1 : begin + 1 + ROWS.chunk_tokens]
    assert [objective.batch(0, index).fresh for index in range(3)] == [True, False, False]


def test_a_state_that_is_carried_survives_a_stop():
    objective, other = objective_of(ROWS), objective_of(ROWS)
    for each in (objective, other):
        each.loss(each.module.eval(), each.batch(0, 0), 0)
        each.step_done()
    again = objective_of(ROWS)
    again.carry(other.carried())
    losses = [each.loss(each.module.eval(), each.batch(0, 1), 0) for each in (objective, again)]
    assert float(losses[0].detach()) == float(losses[1].detach())


def test_windows_are_pieces_of_the_text_at_every_third_character():
    objective = objective_of(WINDOWS)
    text = SYNOPSES.joined[0]
    batch = objective.batch(0, 1)
    for row, target in zip(batch.inputs, batch.targets, strict=True):
        shown = "".join(objective.tokenizer.token_text(int(token)) for token in [*row, target[-1]])
        places = [place for place in range(0, len(text), WINDOWS.window_step) if text.startswith(shown, place)]
        assert places
    assert objective.config.window == WINDOWS.chunk_tokens
    assert not torch.equal(batch.inputs, objective.batch(1, 1).inputs)


def test_windows_are_validated_behind_whole_windows():
    objective = objective_of(WINDOWS)
    objective.module.eval()
    with torch.no_grad():
        sums = [(float(nats), tokens) for nats, tokens in objective.validation()]
    assert sum(tokens for _, tokens in sums) == WINDOWS.windows_per_epoch


def test_words_are_lower_case_words_marks_and_line_ends_the_frequent_ones_first():
    tokenizer = train_word_tokenizer('The cat, the "dog" and THE bird\ncan\'t sing. The end')
    assert tokenizer.encode("the")[0] == 0
    read = [tokenizer.token_text(token) for token in tokenizer.encode("THE cat can't sing.\n")]
    assert read == [" the", " cat", " can't", " sing", ".", "\n"]
    assert tokenizer.encode("unicorns") == []


def test_rare_words_are_read_as_unknown_where_that_is_asked_for():
    tokenizer = train_word_tokenizer("a a a b b c", fewest_occurrences=2)
    assert [tokenizer.token_text(token) for token in tokenizer.encode("a b c d")] == [" a", " b", " <unk>", " <unk>"]


@given(st.text(min_size=1, max_size=200))
def test_any_text_gives_a_vocabulary_that_reads_it_without_error(text):
    tokenizer = train_word_tokenizer(text)
    assert all(0 <= token < tokenizer.vocabulary_size for token in tokenizer.encode(text))


def test_texts_that_are_too_short_are_refused_with_what_is_needed():
    short = Texts(["Hello you"], [])
    with pytest.raises(StoreError, match="the text has 9 tokens; 8 rows in chunks of 16 need 136; give more text"):
        char_objective(short, ROWS)
    with pytest.raises(StoreError, match="the text has 9 tokens; a window of 16 needs more"):
        char_objective(short, WINDOWS)
    with pytest.raises(StoreError, match="the text has 2 tokens; 4 rows in chunks of 10 need 44"):
        word_objective(short, WORDS)
