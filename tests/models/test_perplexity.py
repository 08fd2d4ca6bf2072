"""Perplexity through a backend, held against one whole pass of the model over each block."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from models.gpt2 import Gpt2, Gpt2Config
from models.lstm import LstmConfig, LstmLanguageModel
from models.perplexity import surprise
from models.runtimes import TextBackend
from models.runtimes.pytorch import Gpt2Backend, lstm_backend

VOCABULARY = 11
CPU = torch.device("cpu")


def seeded(model):
    with torch.random.fork_rng():
        torch.manual_seed(6)
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.5)
    return model.eval()


def text(length):
    return torch.randint(VOCABULARY, (length,), generator=torch.Generator().manual_seed(1)).tolist()


@pytest.mark.parametrize("length", [2, 31, 64, 65, 96, 97, 300])
def test_each_token_is_judged_once_after_half_a_context_or_all_that_there_is(length):
    config = Gpt2Config(VOCABULARY, context_tokens=64, width=16, layers=2, heads=2)
    model, tokens = seeded(Gpt2(config)), text(length)
    found = surprise(Gpt2Backend(model, CPU), tokens, 64)
    expected = 0.0
    for place in range(1, length):
        # Blocks begin at multiples of 32; the first one that has the token predicts it.
        begin = 0 if place < 64 else (place - 32) // 32 * 32
        with torch.inference_mode():
            logits, _ = model(torch.tensor([tokens[begin:place]]))
        expected += F.cross_entropy(logits[0, -1].double(), torch.tensor(tokens[place])).item()
    assert found.tokens == length - 1
    assert found.nats == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("window", [None, 20])
def test_an_lstm_without_a_limit_reads_all_of_a_text_that_fits_into_a_block(window):
    config = LstmConfig(VOCABULARY, (12,), window=window)
    model, tokens = seeded(LstmLanguageModel(config)), text(90)
    found = surprise(lstm_backend(model, CPU), tokens, None)
    expected = 0.0
    for place in range(1, len(tokens)):
        begin = 0 if window is None else max(0, place - window)
        read = torch.tensor([tokens[begin:place]])
        with torch.inference_mode():
            logits, _ = model(read)
        expected += F.cross_entropy(logits[0, -1].double(), torch.tensor(tokens[place])).item()
    assert found.nats == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "lstm"])
def test_blocks_that_are_read_together_are_judged_as_alone(monkeypatch, family):
    backend: TextBackend
    if family == "gpt2":
        config = Gpt2Config(VOCABULARY, context_tokens=32, width=16, layers=1, heads=2)
        backend = Gpt2Backend(seeded(Gpt2(config)), CPU)
    else:
        backend = lstm_backend(seeded(LstmLanguageModel(LstmConfig(VOCABULARY, (12,)))), CPU)
    tokens = text(500)
    together = surprise(backend, tokens, 32)
    monkeypatch.setattr("models.perplexity.MOST_BLOCKS", 1)
    alone = surprise(backend, tokens, 32)
    assert alone.tokens == together.tokens == 499
    assert alone.nats == pytest.approx(together.nats, rel=1e-9)


def test_a_text_without_a_token_to_predict_is_refused():
    model = seeded(LstmLanguageModel(LstmConfig(VOCABULARY, (12,))))
    with pytest.raises(ValueError, match="fewer than two tokens"):
        surprise(lstm_backend(model, CPU), [1], None)
