"""Encoders of any task are read without what was made for that task."""

from __future__ import annotations

import pytest
import torch
import transformers

from models.bert import Bert
from models.pretrained.bert import read_encoder
from models.pretrained.source import Source

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
    "initializer_range": 0.3,
}


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
