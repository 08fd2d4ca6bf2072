"""Bundles hold the ONNX variants that their model can have, and the loader runs them."""

import pytest
import torch

from contracts.bundle import Bundle
from contracts.errors import StoreError
from contracts.tokenizers import CharacterTokenizer
from export.draft import Draft
from models.gpt2 import Gpt2, Gpt2Config
from models.lstm import LstmConfig, LstmLanguageModel
from models.runtimes.onnx import multiplies_int8_exactly
from workers.engines import loading
from workers.engines.loading import load_model

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from export.onnx_linear import quantise

VNNI = pytest.mark.skipif(not multiplies_int8_exactly(), reason="this processor has no VNNI")
VARIANTS = pytest.mark.parametrize("variant", ["onnx:fp32", pytest.param("onnx:int8", marks=VNNI)])
LETTERS = "abcdefgh "


def _publish(store, heads=2):
    config = Gpt2Config(len(LETTERS), context_tokens=64, width=32, layers=2, heads=heads)
    return Draft(config, Gpt2(config).state_dict(), CharacterTokenizer(LETTERS), "a bad egg", {}).publish(store, "tiny")


@VARIANTS
def test_a_published_gpt2_runs_in_onnx_runtime(store, variant):
    bundle = _publish(store)
    assert {"pytorch:fp32", variant} <= set(bundle.variants())
    opened = Bundle.open(bundle.path)  # every hash is checked
    assert load_model(opened, variant, torch.device("cpu")).engine.capacity > 1


@VARIANTS
def test_a_published_lstm_runs_in_onnx_runtime(store, variant):
    config = LstmConfig(len(LETTERS), (16, 8))
    weights = LstmLanguageModel(config).state_dict()
    bundle = Draft(config, weights, CharacterTokenizer(LETTERS), "a bad egg", {}).publish(store, "tiny")
    assert load_model(Bundle.open(bundle.path), variant, torch.device("cpu")).engine.capacity > 1


@VARIANTS
def test_a_published_lstm_of_windows_runs_in_onnx_runtime(store, variant):
    config = LstmConfig(len(LETTERS), (16, 8), recurrent_activation="hard_sigmoid", window=5)
    weights = LstmLanguageModel(config).state_dict()
    bundle = Draft(config, weights, CharacterTokenizer(LETTERS), "a bad egg", {}).publish(store, "tiny")
    assert load_model(Bundle.open(bundle.path), variant, torch.device("cpu")).engine.capacity > 1


def test_a_gpt2_that_the_attention_operator_cannot_run_has_no_onnx_variants(store):
    bundle = _publish(store, heads=8)
    assert {known.format for known in bundle.manifest.variants} == {"pytorch"}


def test_int8_is_refused_where_its_sums_would_not_be_exact(store, monkeypatch):
    bundle = _publish(store)
    monkeypatch.setattr("models.runtimes.onnx.multiplies_int8_exactly", lambda: False)
    load_model(bundle, "onnx:fp32", torch.device("cpu"))
    with pytest.raises(StoreError, match="VNNI"):
        load_model(bundle, "onnx:int8", torch.device("cpu"))


def test_onnx_variants_run_on_a_cpu_only(store):
    with pytest.raises(StoreError, match="runs on a CPU"):
        load_model(_publish(store), "onnx:int8", torch.device("meta"))


def test_another_onnx_runtime_is_another_fingerprint_of_what_it_runs(store, monkeypatch):
    bundle, device = _publish(store), torch.device("cpu")
    variants = ("onnx:fp32", "pytorch:fp32")
    before = [load_model(bundle, variant, device).fingerprint for variant in variants]
    monkeypatch.setattr(loading, "installed_builds", lambda: {"onnxruntime": "99.0"})
    after = [load_model(bundle, variant, device).fingerprint for variant in variants]
    assert before[0] != after[0]
    assert before[1] == after[1]


def test_quantised_weights_are_within_half_a_step():
    weight = torch.randn(7, 33, generator=torch.Generator().manual_seed(1))
    integers, scale = quantise(weight)
    assert integers.shape == (33, 7)
    assert integers.abs().max() == 127
    assert ((integers.t() * scale[:, None] - weight).abs() <= scale[:, None] / 2 + 1e-7).all()
