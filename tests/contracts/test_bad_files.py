"""Manifests and tokenizers with something wrong in them: refused in one line, or they work."""

from __future__ import annotations

import json

import pytest
import tokenizers
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from contracts.bundle import MANIFEST, Bundle
from contracts.errors import InvalidRequest, StoreError
from contracts.files import read_small
from contracts.prompt_fields import PromptFields
from contracts.store import Store
from contracts.tokenizers import BpeTokenizer, Detokenizer, read_tokenizer
from contracts.tokenizers.library import MAX_TOKENS

often = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
FIELDS = {
    "family": "gpt2",
    "task": "text",
    "config": {"vocabulary_size": 2, "layers": 3},
    "limits": {"context_tokens": 16, "max_tokens": 8},
    "tokenizer": "characters",
    "prompt_fields": PromptFields.from_format("genre<|a|>plot<|b|>").model_dump(mode="json"),
    "labels": {"names": ["Drama", "War"], "activation": "sigmoid", "threshold": 0.5},
    "variants": [
        {"format": "pytorch", "precision": "fp32", "files": ["weights.safetensors"]},
        {
            "format": "torchscript",
            "precision": "fp16",
            "files": ["weights.safetensors"],
            "parity": {
                "max_difference": 0.1,
                "mean_difference": 0.01,
                "mean_kl": 0.2,
                "equal_greedy_share": 0.5,
                "psnr_db": 40.0,
                "batch_invariant": True,
                "trained": True,
                "faults": ["its mean KL divergence is 0.2 nats, more than 1e-03"],
            },
        },
    ],
    "left_out": {"onnx:int8": "its perplexity is 1.1 times the reference's, over 1% off"},
    "example": {"prompt": "a"},
    "provenance": {"source": "run"},
}
CHARACTERS = {"characters": "abc\n", "unknown": "replace", "unknown_token": "b"}
WORDS = {
    "words": ["a", "well-known", ".", "\n", "<unk>", "<end>"],
    "lowercase": True,
    "unknown": "replace",
    "unknown_token": "<unk>",
    "end_token": "<end>",
}
TEXTS = ["", "a b\n", "Hello, 日本 \x00\x1b 🎭", "<|endoftext|><unk>", "well-known.", "x" * 300]


def fill(folder):
    (folder / "weights.safetensors").write_bytes(b"weights")
    (folder / "tokenizer.json").write_text(json.dumps(CHARACTERS))
    return FIELDS


def assert_one_line(refusal: str) -> None:
    assert 20 < len(refusal) <= 2000
    assert refusal.isprintable()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    return Store(tmp_path_factory.mktemp("store")).write("m", fill)


@often
@given(data=st.data())
def test_a_spoiled_manifest_is_a_bundle_or_refused_in_one_line(bundle, spoiled, data):
    manifest = bundle.manifest.model_dump(mode="json")
    (bundle.path / MANIFEST).write_bytes(data.draw(spoiled(manifest)))
    try:
        read = Bundle.open(bundle.path).manifest
        assert all(variant.name and variant.forced in (True, False) for variant in read.variants)
        again = read.model_validate_json(read.model_dump_json())
        assert again == read, "what is read is what is written"
    except StoreError as error:
        assert_one_line(str(error))


def test_a_manifest_from_before_parity_was_measured_is_read(bundle):
    manifest = bundle.manifest.model_dump(mode="json", exclude={"left_out": True})
    for variant in manifest["variants"]:
        del variant["parity"]
    (bundle.path / MANIFEST).write_text(json.dumps(manifest))
    read = Bundle.open(bundle.path)
    assert [(variant.parity, variant.forced) for variant in read.manifest.variants] == [(None, False)] * 2
    assert read.manifest.left_out == {}


def test_a_variant_that_a_bundle_lacks_is_named_with_those_it_has(bundle):
    with pytest.raises(StoreError, match=r"no variant 'onnx:int8'; it has pytorch:fp32, torchscript:fp16"):
        bundle.variant("onnx:int8")


def test_a_manifest_of_thousands_of_faults_is_refused_in_one_line(bundle):
    entry = {"sha256": "0" * 64, "bytes": 1}
    files = {f"a\n{number}\x1b[31m": entry for number in range(5000)}
    (bundle.path / MANIFEST).write_text(json.dumps(bundle.manifest.model_dump(mode="json") | {"files": files}))
    with pytest.raises(StoreError) as caught:
        Bundle.open(bundle.path)
    assert_one_line(str(caught.value))


def test_a_bundle_that_could_not_be_written_leaves_not_even_its_folder(tmp_path):
    with pytest.raises(ValueError, match="family"):
        Store(tmp_path).write("m", lambda folder: fill(folder) | {"family": "markov"})
    assert list(tmp_path.iterdir()) == []


def test_a_small_file_is_read_within_a_bound_and_a_device_to_no_end(tmp_path):
    (tmp_path / "f").write_bytes(b"12345")
    assert read_small(tmp_path / "f", 5) == b"12345"
    with pytest.raises(StoreError, match="more than 4 bytes"):
        read_small(tmp_path / "f", 4)
    (tmp_path / "endless").symlink_to("/dev/zero")
    assert len(read_small(tmp_path / "endless", 5)) == 1


# Tokenizers


def library_file() -> dict:
    bpe = tokenizers.ByteLevelBPETokenizer()
    text = ["the quick brown fox ", "日本語 höher"]
    bpe.train_from_iterator(
        text, vocab_size=270, min_frequency=1, special_tokens=["<|endoftext|>"], show_progress=False
    )
    document: dict = json.loads(bpe._tokenizer.to_str())
    return document


BPE = library_file()


@often
@given(data=st.data())
@pytest.mark.parametrize(
    ("kind", "document"),
    [("characters", CHARACTERS), ("words", WORDS), ("bpe", BPE)],
    ids=["characters", "words", "bpe"],
)
@example(data=None)
def test_a_spoiled_tokenizer_reads_any_text_or_is_refused_in_one_line(tmp_path, spoiled, kind, document, data):
    raw = data.draw(spoiled(document)) if data else json.dumps(document).encode()
    (tmp_path / "tokenizer.json").write_bytes(raw)
    try:
        tokenizer = read_tokenizer(kind, tmp_path / "tokenizer.json")
    except StoreError as error:
        assert data
        assert_one_line(str(error))
        return
    for text in TEXTS:
        try:
            tokens = tokenizer.encode(text)
        except InvalidRequest as error:
            assert_one_line(error.message)
            continue
        assert all(0 <= token < tokenizer.vocabulary_size for token in tokens)
        detokenizer = Detokenizer(tokenizer)
        ("".join(map(detokenizer.feed, tokens)) + detokenizer.finish()).encode()
        assert all(isinstance(tokenizer.token_text(token), str) for token in tokens)


@pytest.mark.parametrize("largest", [MAX_TOKENS, 2**32 - 1])
def test_a_vocabulary_with_a_hole_of_gigabytes_is_refused_before_it_takes_them(largest):
    document = {**BPE, "added_tokens": [], "model": {**BPE["model"], "vocab": {"a": 0, "b": largest}, "merges": []}}
    with pytest.raises(StoreError, match=f"its largest token id is {largest}; ids from 0 to {MAX_TOKENS - 1}"):
        BpeTokenizer.parse(json.dumps(document).encode())


def test_a_vocabulary_of_nothing_is_refused():
    document = {**BPE, "added_tokens": [], "model": {**BPE["model"], "vocab": {}, "merges": []}}
    with pytest.raises(StoreError, match="its largest token id is -1"):
        BpeTokenizer.parse(json.dumps(document).encode())


@pytest.mark.parametrize("model", [{"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "x"}, {"type": "Unigram"}])
def test_a_model_of_another_kind_is_refused(model):
    with pytest.raises(StoreError):
        BpeTokenizer.parse(json.dumps({**BPE, "added_tokens": [], "model": model}).encode())
