"""GPT-2's losses equal those of transformers; where it begins and which tokens it gets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from contracts.errors import StoreError
from contracts.prompt_fields import PromptFields
from contracts.run import RUN, RunDescription
from contracts.store import Store
from export.run import export_run
from tests.training.conftest import SMALL, SYNOPSES, train
from training.gpt2 import PAD, gpt2_objective, train_tokenizer, with_tokens
from training.objective import IGNORED
from training.texts import WITH_TITLES, Texts

PADDED, PACKED = SMALL["padded"], SMALL["packed"]
FIELDS = PromptFields.from_format(WITH_TITLES)
PLOTS = Texts(
    [
        f"drama<|endofgenre|>Film {n}<|endoftitle|>Somebody {n} meets somebody else{' again' * n}.<|endoftext|>"
        for n in range(40)
    ],
    ["crime<|endofgenre|>Thief<|endoftitle|>A thief meets a judge in the rain.<|endoftext|>"] * 3,
    FIELDS,
)


def checkpoint(folder: Path) -> Path:
    """A GPT-2 of transformers with our small tokenizer."""
    tokenizer = train_tokenizer(SYNOPSES.train, 400)
    folder.mkdir()
    tokenizer.write(folder / "tokenizer.json")
    config = transformers.GPT2Config(
        vocab_size=tokenizer.vocabulary_size,
        n_positions=160,
        n_embd=32,
        n_layer=2,
        n_head=2,
        initializer_range=0.2,
    )
    torch.manual_seed(3)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def test_the_padded_loss_equals_that_of_transformers_with_an_attention_mask(tmp_path):
    folder = checkpoint(tmp_path / "gpt2")
    objective = gpt2_objective(SYNOPSES, PADDED.model_copy(update={"model": str(folder), "dropout": 0.0}))
    oracle = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
    pad = objective.tokenizer.encode(PAD)[0]
    oracle.resize_token_embeddings(objective.config.vocabulary_size)
    oracle.transformer.wte.weight.data.copy_(objective.module.tokens.weight)
    batch = objective.batch(0, 0)
    texts = [objective.tokenizer.encode(text + "<|endoftext|>") for text in SYNOPSES.train]
    rows = [
        next(text for text in texts if text[: len(row)] == row)
        for row in ([int(t) for t in r[:20]] for r in batch.inputs)
    ]
    width = PADDED.block_tokens
    ids = torch.tensor([(row + [pad] * width)[:width] for row in rows])
    labels = torch.tensor([(row + [IGNORED] * width)[:width] for row in rows])
    with torch.no_grad():
        expected = oracle(ids, attention_mask=(labels != IGNORED).long(), labels=labels).loss
        found = objective.loss(objective.module.eval(), batch, 0) / batch.predicted
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_a_checkpoint_is_fine_tuned_with_the_tokens_that_it_lacks(tmp_path):
    folder = checkpoint(tmp_path / "gpt2")
    recipe = PACKED.model_copy(update={"model": str(folder), "block_tokens": 64, "learning_rate": 1e-3})
    objective = gpt2_objective(PLOTS, recipe)
    before = transformers.GPT2LMHeadModel.from_pretrained(folder).transformer.wte.weight
    assert objective.config.vocabulary_size == len(before) + 2  # the end token it has
    assert torch.equal(objective.module.tokens.weight[: len(before)], before)
    for marker in FIELDS.markers:
        assert len(objective.tokenizer.encode(marker)) == 1
    assert objective.example_prompt == "drama<|endofgenre|>"


def test_new_tokens_are_not_likely_from_the_start(tmp_path):
    objective = gpt2_objective(SYNOPSES, PADDED.model_copy(update={"model": str(checkpoint(tmp_path / "gpt2"))}))
    with torch.no_grad():
        logits, _ = objective.module.eval()(objective.batch(0, 0).inputs)
    pad = objective.tokenizer.encode(PAD)[0]
    assert logits.softmax(-1)[..., pad].mean() < 3 / objective.config.vocabulary_size


def test_a_model_of_plots_is_served_with_their_fields(tmp_path):
    run = train(tmp_path / "run", PACKED.model_copy(update={"block_tokens": 16}), PLOTS)
    assert RunDescription.model_validate_json((run / RUN).read_bytes()).prompt_fields == PLOTS.prompt_fields
    bundle = export_run(run, Store(tmp_path / "store"), "plots")
    assert bundle.manifest.prompt_fields == PLOTS.prompt_fields
    assert bundle.manifest.example.prompt == "drama<|endofgenre|>"


def test_tokens_that_a_tokenizer_has_keep_their_ids():
    tokenizer = train_tokenizer(SYNOPSES.train, 400, ["<|a|>"])
    module = gpt2_objective(SYNOPSES, PACKED).module
    _, extended = with_tokens(module, tokenizer, ["<|endoftext|>", "<|a|>", "<|b|>"])
    assert extended.encode("<|a|>") == tokenizer.encode("<|a|>")
    assert extended.encode("<|b|>") == [tokenizer.vocabulary_size]
    assert extended.end_token == tokenizer.end_token
    text = SYNOPSES.validation[0]
    assert extended.encode(text) == tokenizer.encode(text)


def test_what_cannot_be_trained_is_refused_with_what_is_needed(tmp_path):
    with pytest.raises(StoreError, match="one block of this recipe needs 33"):
        gpt2_objective(Texts(["Hello"], []), PACKED)
    with pytest.raises(StoreError, match="block_tokens is 300; this model reads 32 tokens at most"):
        gpt2_objective(SYNOPSES, PACKED.model_copy(update={"block_tokens": 300}))
    with pytest.raises(StoreError, match="neither a folder nor a name on the hub"):
        gpt2_objective(SYNOPSES, PACKED.model_copy(update={"model": "../nowhere"}))
    with pytest.raises(StoreError, match="no GPT-2 can be made from this recipe"):
        gpt2_objective(SYNOPSES, PACKED.model_copy(update={"heads": 5}))
