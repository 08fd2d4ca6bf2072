"""benchmarks/plain_onnx.py: a peer is a peer only if it computes the same."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def plain_onnx():
    sys.path.insert(0, str(SCRIPTS))
    yield importlib.import_module("plain_onnx")
    sys.path.remove(str(SCRIPTS))


def test_gpt2_writes_what_transformers_writes(plain_onnx, tmp_path):
    torch.manual_seed(3)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=48, n_layer=2, n_head=4, n_positions=64)).eval()
    prompts = torch.randint(0, 300, (3, 7))
    expected = model.generate(
        prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=20, do_sample=False, eos_token_id=None
    )
    loops = plain_onnx.plain_loops(plain_onnx.Gpt2Step(model), tmp_path, 1)
    written = loops["fp32"].write(prompts, 20, top_k=1)
    np.testing.assert_array_equal(written, expected[:, 7:].numpy())
    assert loops["int8"].write(prompts, 20, top_k=1).shape == (3, 20)


@pytest.mark.parametrize("embedding", [nn.Embedding(30, 12), None])
def test_an_lstm_writes_what_an_eager_loop_writes(plain_onnx, tmp_path, embedding):
    torch.manual_seed(3)
    lstm, head = nn.LSTM(12 if embedding else 30, 16, 2, batch_first=True), nn.Linear(16, 30)
    prompts = torch.randint(0, 30, (4, 5))
    text = prompts
    for _ in range(12):
        hidden, _ = lstm(embedding(text) if embedding else nn.functional.one_hot(text, 30).float())
        text = torch.cat([text, head(hidden[:, -1]).argmax(-1, keepdim=True)], 1)
    loops = plain_onnx.plain_loops(plain_onnx.LstmStep(lstm, embedding, head), tmp_path, 1)
    np.testing.assert_array_equal(loops["fp32"].write(prompts, 12, top_k=1), text[:, 5:].numpy())


def test_draws_follow_top_k_and_top_p(plain_onnx):
    chances = np.array([0.5, 0.3, 0.15, 0.05])
    logits = np.log(np.tile(chances, (20_000, 1)))[:, [2, 0, 3, 1]].astype(np.float32)
    random = np.random.default_rng(5)

    def shares(**settings):
        return np.bincount(plain_onnx.draw(logits, random, **settings), minlength=4)[[1, 3, 0, 2]] / len(logits)

    assert shares() == pytest.approx(chances, abs=0.015)
    assert shares(top_k=2) == pytest.approx([0.625, 0.375, 0, 0], abs=0.015)
    assert shares(top_k=4, top_p=0.9) == pytest.approx([0.526, 0.316, 0.158, 0], abs=0.015)
    assert shares(top_k=4, top_p=0.5) == pytest.approx([1, 0, 0, 0])
