"""Encoders of any task are read without what was made for that task."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from models.bert import Bert
from models.pretrained.bert import read_encoder
from models.pretrained.source import Source
from training.genres.masked import MaskedLanguageModel

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
    "initializer_range": 0.3,
}


DISTILBERT_SIZES: dict[str, Any] = {
    "dim": 16,
    "n_layers": 2,
    "n_heads": 2,
    "hidden_dim": 32,
    "max_position_embeddings": 40,
}


@pytest.mark.parametrize("task", ["Model", "ForMaskedLM", "ForSequenceClassification"])
def test_a_distilbert_is_read_as_a_bert(task, encoder_tokenizer, tmp_path):
    tokenizer = encoder_tokenizer("bert")
    config = transformers.DistilBertConfig(vocab_size=tokenizer.get_vocab_size(), activation="relu", **DISTILBERT_SIZES)
    torch.manual_seed(1)
    theirs = getattr(transformers, f"DistilBert{task}")(config).eval()
    for parameter in theirs.parameters():  # norms and biases begin as ones and zeros
        parameter.data += 0.2 * torch.randn_like(parameter)
    theirs.save_pretrained(tmp_path)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    found = read_encoder(Source(tmp_path), labels=5)
    assert bool(found.language_head) == (task == "ForMaskedLM")
    ours = MaskedLanguageModel(found.config).eval()
    missing, unexpected = ours.load_state_dict({**found.weights, **found.language_head}, strict=False)
    assert unexpected == []
    ids = torch.tensor([found.tokenizer.encode("the quick brown fox")])
    lengths = torch.tensor([ids.shape[1]])
    with torch.no_grad():
        expected = theirs(ids) if task != "ForSequenceClassification" else theirs.distilbert(ids)
        if task == "ForMaskedLM":
            assert missing == []
            logits = ours(ids, lengths, torch.ones_like(ids, dtype=torch.bool))
            torch.testing.assert_close(logits[None], expected.logits, atol=1e-5, rtol=1e-5)
        else:
            found_states = ours.states(ids, lengths)
            torch.testing.assert_close(found_states, expected.last_hidden_state, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("task", ["Model", "ForMaskedLM", "ForSequenceClassification"])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_the_states_are_those_of_transformers(family, task, encoder_tokenizer, tmp_path):
    tokenizer = encoder_tokenizer(family)
    name = {"bert": "Bert", "roberta": "Roberta"}[family]
    config = getattr(transformers, f"{name}Config")(vocab_size=tokenizer.get_vocab_size(), **SIZES)
    torch.manual_seed(1)
    theirs = getattr(transformers, name + task)(config).eval()
    theirs.save_pretrained(tmp_path)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    found = read_encoder(Source(tmp_path), labels=5)
    assert found.config.labels == 5
    ours = Bert(found.config).eval()
    missing, unexpected = ours.load_state_dict(found.weights, strict=False)
    assert unexpected == []
    assert {entry.split(".")[0] for entry in missing} == {"pool", "head"}
    ids = torch.tensor([found.tokenizer.encode("the quick brown fox")])
    encoder = theirs if task == "Model" else getattr(theirs, family)
    with torch.no_grad():
        expected = encoder(ids).last_hidden_state[:, 0]
        torch.testing.assert_close(ours.read(ids, torch.tensor([ids.shape[1]])), expected, atol=1e-5, rtol=1e-5)
