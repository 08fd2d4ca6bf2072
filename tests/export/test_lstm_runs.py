"""LSTM runs of any shape become bundles whose every variant writes what PyTorch's own LSTM would."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from contracts.bundle import TOKENIZER, WEIGHTS
from contracts.errors import StoreError
from contracts.requests import TextRequest
from contracts.run import RUN, RunDescription
from contracts.tokenizers import CharacterTokenizer, WordTokenizer
from export.run import export_run
from models.lstm import LstmConfig, LstmLanguageModel
from models.runtimes.onnx import multiplies_int8_exactly
from workers.local import LocalModel

CONFIGS = {
    "least": LstmConfig(2, (1,)),
    "one-hot": LstmConfig(41, (24, 16)),
    "one-hot, rising sizes": LstmConfig(90, (3, 5, 31)),
    "one layer": LstmConfig(97, (13,), embedding=1),
    "wide embedding": LstmConfig(60, (9, 2), embedding=100),
    "as the recipe": LstmConfig(1000, (64, 64, 64), embedding=100),
    "window of one": LstmConfig(41, (6,), embedding=7, window=1),
    "window": LstmConfig(90, (8, 3), window=4),
    "window, three layers": LstmConfig(300, (5, 9, 4), embedding=12, window=11),
}
PROMPTS = {"characters": "ba", "words": "W0, w1 w0 w1 W1, w0"}
TOKENS = 20


def tokenizer_of(kind, size, **options):
    if kind == "words":
        return WordTokenizer([",", *(f"w{number}" for number in range(size - 1))], **options)
    return CharacterTokenizer("".join(map(chr, range(ord("a"), ord("a") + size))), **options)


def write_run(folder, config, tokenizer, prompt):
    folder.mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(31)
        model = LstmLanguageModel(config)
    for weight in model.parameters():
        weight.data *= 3  # peaked enough that a wrong operation shows
    description = RunDescription(
        family="lstm",
        task="text",
        config=asdict(config),
        tokenizer=tokenizer.kind,
        hyperparameters={},
        metrics={},
        example_prompt=prompt,
    )
    (folder / RUN).write_text(description.model_dump_json())
    save_file(model.state_dict(), folder / WEIGHTS)
    tokenizer.write(folder / TOKENIZER)
    return folder


def oracle(folder, config, tokens):
    """Log-probabilities (time, vocabulary) of what follows each token, by torch.nn.LSTM."""
    weights = load_file(folder / WEIGHTS)
    if config.window is None:
        return _read(weights, config, tokens)
    ends = range(1, len(tokens) + 1)
    return torch.cat([_read(weights, config, tokens[max(0, end - config.window) : end])[-1:] for end in ends])


def _read(weights, config, tokens):
    embedding = weights.get("embedding.weight", torch.eye(config.vocabulary_size))
    hidden = embedding[torch.tensor(tokens)]
    for layer, size in enumerate(config.layers):
        lstm = nn.LSTM(hidden.shape[-1], size)
        lstm.load_state_dict({name: weights[f"layers.{layer}.{name}"] for name in lstm.state_dict()})
        hidden = lstm(hidden)[0].detach()
    return F.log_softmax(F.linear(hidden, weights["head.weight"], weights["head.bias"]), -1)


def write_text(bundle, variant, prompt, **options):
    tokens = tuple(bundle.tokenizer().encode(prompt))
    request = TextRequest(
        target=bundle.target(variant), seed=1, prompt_tokens=tokens, max_tokens=TOKENS, echo=True, logprobs=0, **options
    )
    return LocalModel(bundle, variant).text(request).choices[0]


TOLERANCES = {"fp32": 1e-4, "fp16": 0.03, "bf16": 0.25, "int8": 0.5}


@pytest.mark.parametrize("kind", PROMPTS)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_every_variant_writes_and_scores_as_pytorchs_lstm(tmp_path, store, config, kind):
    prompt = PROMPTS[kind]
    run = write_run(tmp_path / "run", config, tokenizer_of(kind, config.vocabulary_size), prompt)
    bundle = export_run(run, store, "text")
    assert bundle.manifest.tokenizer == kind
    assert bundle.variants() == ["pytorch:fp32", "pytorch:fp16", "pytorch:bf16", "onnx:fp32", "onnx:int8"]
    for variant in bundle.variants():
        if variant == "onnx:int8" and not multiplies_int8_exactly():
            continue
        choice = write_text(bundle, variant, prompt, temperature=0.0)
        tokens = bundle.tokenizer().encode(choice.text)
        begin = len(tokens) - TOKENS
        expected = oracle(run, config, tokens[:-1])
        scored = expected.gather(1, torch.tensor(tokens)[1:, None])[:, 0]
        tolerance = TOLERANCES[bundle.variant(variant).precision]
        torch.testing.assert_close(torch.tensor(choice.logprobs.token_logprobs[1:]), scored, atol=tolerance, rtol=0.05)
        if variant.endswith("fp32"):
            assert tokens[begin:] == expected.argmax(-1)[begin - 1 :].tolist()


def test_written_words_line_up_with_their_log_probabilities(tmp_path, store):
    config = LstmConfig(60, (16,), embedding=8)
    run = write_run(tmp_path / "run", config, tokenizer_of("words", 60), "w0")
    choice = write_text(export_run(run, store, "text"), "pytorch:fp32", "w5, W7 unheard w1")
    assert choice.text.startswith("w5, w7 w1 ")
    tokens, offsets = choice.logprobs.tokens, choice.logprobs.text_offset
    assert len(tokens) == len(offsets) == TOKENS + 4
    assert (offsets[0], tokens[0]) == (0, " w5"), "at the beginning a word's space is dropped"
    for token, offset in zip(tokens[1:], offsets[1:], strict=True):
        assert choice.text.startswith(token, offset)


def test_a_stream_of_words_is_the_text(tmp_path, store):
    config = LstmConfig(60, (16,), embedding=8)
    bundle = export_run(write_run(tmp_path / "run", config, tokenizer_of("words", 60), "w0"), store, "text")
    pieces: list[str] = []
    request = TextRequest(target=bundle.target(), seed=1, prompt_tokens=(3, 0), max_tokens=50, echo=True)
    result = LocalModel(bundle).text(request, on_text=pieces.append)
    assert "".join(pieces) == result.choices[0].text
    assert result.choices[0].text.startswith("w2, ") or result.choices[0].text.startswith("w2,,")


REFUSALS = {
    "too few words": (tokenizer_of("words", 8), "w0", "the tokenizer has 8 tokens, but the model 9"),
    "too many words": (tokenizer_of("words", 10), "w0", "the tokenizer has 10 tokens, but the model 9"),
    "unknown prompt": (tokenizer_of("words", 9), "hello", "'hello' has no token that the model knows"),
    "refused prompt": (tokenizer_of("words", 9, unknown="error"), "w0 hello", "'w0 hello' cannot be read: .*'hello'"),
}


@pytest.mark.parametrize(("tokenizer", "prompt", "fault"), REFUSALS.values(), ids=REFUSALS.keys())
def test_words_that_do_not_fit_their_model_are_refused(tmp_path, store, tokenizer, prompt, fault):
    run = write_run(tmp_path / "run", LstmConfig(9, (4,), embedding=3), tokenizer, prompt)
    with pytest.raises(StoreError, match=fault):
        export_run(run, store, "text")
    assert store.names() == []
