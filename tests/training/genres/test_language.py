"""Encoders learn the language of plots by guessing masked tokens, and then their genres."""

from __future__ import annotations

import json
import math
from collections import Counter

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from contracts.bundle import WEIGHTS
from contracts.errors import StoreError
from contracts.run import RUN
from contracts.store import Store
from export.run import export_run
from models.pretrained.bert import read_encoder
from models.pretrained.source import Source
from tests.training.genres.test_encoder import DATA, RECIPE
from tests.training.test_trainer import Interrupting, metrics, same_weights
from training.genres.beginning import Beginning, read_beginning
from training.genres.encoder import genres_objective
from training.genres.language import framed_blocks, language_objective
from training.genres.masked import Masking
from training.genres.trainer import LANGUAGE, LanguageFirst
from training.objective import IGNORED
from training.run_folder import RunFolder
from training.stopping import Stopped

FAMILIES = {"bert": "Bert", "roberta": "Roberta"}
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
    "initializer_range": 0.3,  # peaked enough that a wrong operation shows
}
LANGUAGE_RECIPE = RECIPE.model_copy(
    update={"language_epochs": 12, "language_learning_rate": 1e-2, "language_batch_rows": 8, "epochs": 2}
)


def checkpoint(folder, family, encoder_tokenizer, **changes):
    """What transformers' masked language model leaves; that very model."""
    tokenizer, name = encoder_tokenizer(family), FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(vocab_size=tokenizer.get_vocab_size(), **SIZES, **changes)
    torch.manual_seed(1)
    theirs = getattr(transformers, f"{name}ForMaskedLM")(config).eval()
    for parameter in theirs.parameters():  # norms and biases begin as ones and zeros
        parameter.data += 0.1 * torch.randn_like(parameter)
    theirs.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return theirs


def beginning_of(folder, labels=3):
    found = read_encoder(Source(folder), labels)
    return Beginning(found.config, found.tokenizer, {**found.weights, **found.language_head})


def two_parts(folder, recipe=LANGUAGE_RECIPE, interrupt_language=0, interrupt_genres=0):
    """A run of both; either is stopped at that step."""
    beginning = read_beginning(DATA, recipe)
    return LanguageFirst(
        Interrupting(language_objective(DATA, recipe, beginning), interrupt_language),
        lambda learnt: Interrupting(genres_objective(DATA, recipe, beginning.taught(learnt)), interrupt_genres),
        folder,
        device="cpu",
        show_progress=False,
        logs=False,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return two_parts(RunFolder.of_existing(tmp_path_factory.mktemp("language") / "run")).run()


@pytest.mark.parametrize("hidden_act", ["gelu", "relu"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_loss_are_those_of_transformers(family, hidden_act, encoder_tokenizer, tmp_path):
    theirs = checkpoint(tmp_path, family, encoder_tokenizer, hidden_act=hidden_act)
    objective = language_objective(DATA, LANGUAGE_RECIPE, beginning_of(tmp_path))
    assert objective.guesses
    batch = objective.batch(0, 0)
    padding = theirs.config.pad_token_id
    assert batch.lengths is not None
    lengths = batch.lengths - torch.arange(len(batch.inputs)) % 5
    seen = torch.arange(batch.inputs.shape[1]) < lengths[:, None]
    inputs, targets = batch.inputs.masked_fill(~seen, padding), batch.targets.masked_fill(~seen, IGNORED)
    with torch.no_grad():
        expected = theirs(inputs, attention_mask=seen.long(), labels=targets)
        wanted = targets != IGNORED
        logits = objective.module.eval()(inputs, lengths, wanted)
        torch.testing.assert_close(logits, expected.logits[wanted], atol=1e-5, rtol=1e-5)
        loss = objective.loss(objective.module, batch._replace(inputs=inputs, targets=targets, lengths=lengths), 0)
    assert float(loss) / int(wanted.sum()) == pytest.approx(float(expected.loss), rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_that_guesses_by_another_embedding_is_learnt_anew(family, encoder_tokenizer, tmp_path):
    theirs = checkpoint(tmp_path, family, encoder_tokenizer, tie_word_embeddings=False)
    beginning = beginning_of(tmp_path)
    assert not beginning.guesses
    objective = language_objective(DATA, LANGUAGE_RECIPE, beginning)
    assert "head was new" in objective.finish(RunFolder.of_existing(tmp_path))
    embedding = theirs.get_input_embeddings().weight
    assert torch.equal(objective.module.tokens.weight, embedding)


def test_a_new_head_begins_at_how_often_each_token_occurs():
    objective = language_objective(DATA, LANGUAGE_RECIPE, read_beginning(DATA, LANGUAGE_RECIPE))
    assert not objective.guesses
    counts = Counter(token for block in objective.blocks for token in block)
    likely = objective.module.output_bias.detach().exp()
    assert float(likely.sum()) == pytest.approx(1, abs=1e-5)
    (first, often), *_, (last, seldom) = counts.most_common()
    assert float(likely[first] / likely[last]) == pytest.approx((often + 1) / (seldom + 1), rel=1e-4)


def test_a_tokenizer_without_a_mask_is_named(encoder_tokenizer, tmp_path):
    checkpoint(tmp_path, "roberta", encoder_tokenizer)
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    assert any(token["content"] == "<mask>" for token in tokenizer["added_tokens"])
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer).replace("<mask>", "<other>"))
    with pytest.raises(StoreError, match="no mask token; leave --language-epochs out"):
        language_objective(DATA, LANGUAGE_RECIPE, beginning_of(tmp_path))
    with pytest.raises(StoreError, match="no mask token; leave --hidden-share out"):
        genres_objective(DATA, RECIPE.model_copy(update={"hidden_share": 0.1}), beginning_of(tmp_path))


@given(st.integers(1, 6), st.integers(3, 40), st.floats(0.01, 0.99), st.integers(0, 2**60))
def test_of_every_row_that_share_is_asked_for_and_the_frame_never(rows, width, share, seed):
    tokens = torch.randint(0, 50, (rows, width), generator=torch.Generator().manual_seed(seed))
    tokens[:, 1] = 7  # something to ask for
    masking = Masking(share, 49, frozenset({0, 1}), 50)
    shown, wanted = masking.apply(tokens, torch.Generator().manual_seed(seed))
    asked, askable = wanted != IGNORED, tokens > 1
    assert (asked & ~askable).sum() == 0
    assert torch.equal(wanted[asked], tokens[asked])
    assert torch.equal(shown[~asked], tokens[~asked])
    expected = [max(1, round(share * count)) for count in askable.sum(1).tolist()]
    assert all(abs(found - count) <= 1 for found, count in zip(asked.sum(1).tolist(), expected, strict=True))
    assert min(asked.sum(1).tolist()) >= 1
    again = masking.apply(tokens, torch.Generator().manual_seed(seed))
    assert torch.equal(again[0], shown)


def test_of_ten_tokens_that_are_asked_for_eight_are_masked_and_one_is_another():
    tokens = torch.full((100, 400), 7)
    shown, wanted = Masking(0.15, 49, frozenset({0, 1}), 50).apply(tokens, torch.Generator().manual_seed(3))
    asked = wanted != IGNORED
    assert asked.sum() == 100 * 60
    kinds = shown[asked]
    assert (kinds == 49).float().mean() == pytest.approx(0.8 + 0.1 / 50, abs=0.02)
    assert (kinds == 7).float().mean() == pytest.approx(0.1 + 0.1 / 50, abs=0.02)
    assert len(set(kinds.tolist())) == 50  # every token takes the place of one


@given(st.lists(st.text(st.sampled_from("ab c"), max_size=30), max_size=8), st.integers(3, 20))
def test_blocks_hold_the_texts_in_their_order_each_framed_as_a_text_is(texts, most):
    tokenizer = TOKENIZER
    blocks = framed_blocks(tokenizer, texts, most)
    read = [tokens[1:] for tokens in map(tokenizer.encode, texts) if len(tokens) > 2]
    first, last = tokenizer.encode("")
    stream = [token for tokens in read for token in tokens][:-1]
    held = [token for block in blocks for token in block[1:-1]]
    assert held == stream[: len(held)]
    assert len(stream) - len(held) < most - 2
    assert all((block[0], block[-1]) == (first, last) for block in blocks)
    assert len({len(block) for block in blocks}) <= 1
    assert bool(blocks) == bool(read)


TOKENIZER = read_beginning(DATA, RECIPE).tokenizer


def test_a_language_that_was_learnt_is_known_better_than_by_how_often_each_token_occurs(run):
    objective = language_objective(DATA, LANGUAGE_RECIPE, read_beginning(DATA, LANGUAGE_RECIPE))
    counts = Counter(token for block in objective.blocks for token in block)
    total = sum(counts.values()) + objective.tokenizer.vocabulary_size
    asked = [token for block in objective.held_out_blocks for token in block if token not in objective.masking.frame]
    unigram = -sum(math.log((counts[token] + 1) / total) for token in asked) / len(asked)
    losses = [line["validation_loss"] for line in metrics(run / LANGUAGE) if "validation_loss" in line]
    assert len(losses) == LANGUAGE_RECIPE.language_epochs
    assert losses[-1] < 0.9 * unigram


def test_genres_are_learnt_by_the_encoder_that_knows_the_language(run):
    learnt = load_file(run / LANGUAGE / WEIGHTS)
    beginning = read_beginning(DATA, LANGUAGE_RECIPE).taught(learnt)
    module = genres_objective(DATA, LANGUAGE_RECIPE, beginning).module
    for name, weight in module.state_dict().items():
        if not name.startswith(("pool.", "head.")):
            assert torch.equal(weight, learnt[name])
    assert (run / "genres.json").is_file()
    assert json.loads((run / RUN).read_text())["hyperparameters"]["language_epochs"] == 12


def test_the_language_alone_is_not_exported(run, tmp_path):
    with pytest.raises(StoreError, match=f"export the run itself: {run}"):
        export_run(run / LANGUAGE, Store(tmp_path / "store"), "language")
    assert export_run(run, Store(tmp_path / "store"), "genres").labels() is not None


@pytest.mark.parametrize("at", [{"interrupt_language": 3}, {"interrupt_genres": 13}])
def test_a_run_that_was_stopped_in_either_part_equals_one_that_was_not(at, run, tmp_path):
    folder = RunFolder.of_existing(tmp_path / "run")
    with pytest.raises(Stopped):
        two_parts(folder, **at).run()
    again = two_parts(folder).run()
    assert same_weights(run / LANGUAGE, again / LANGUAGE)
    assert same_weights(run, again)
    assert metrics(run / LANGUAGE) == metrics(again / LANGUAGE)
    assert (run / "genres.json").read_text() == (again / "genres.json").read_text()
