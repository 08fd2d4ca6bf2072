"""`kamishibai tune`: the fastest variant that keeps its bounds is recorded, and says what was left out and why."""

from __future__ import annotations

import shutil

import pytest
import torch

from cli.devices import device_class
from contracts.bundle import DEFAULT_VARIANT, MANIFEST, Manifest
from contracts.store import Store
from contracts.tokenizers import CharacterTokenizer
from contracts.tuning import read_choice
from export.draft import Draft
from export.formats import Wishes
from models.lstm import LstmConfig, LstmLanguageModel

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Store:
    """A character LSTM as pytorch:fp32, pytorch:bf16 and onnx:fp32, whose bf16 missed a bound and was forced."""
    made = Store(tmp_path_factory.mktemp("store"))
    tokenizer = CharacterTokenizer("abcdefgh ")
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = LstmLanguageModel(LstmConfig(tokenizer.vocabulary_size, layers=(32,)))
    for weight in model.parameters():
        weight.data *= 40  # far from what bf16 can hold
    draft = Draft(model.config, model.state_dict(), tokenizer, "abc", provenance={}, trained=False)
    wishes = Wishes(formats=frozenset({"pytorch", "onnx"}), precisions=frozenset({"fp32", "bf16"}), force=True)
    with pytest.raises(Exception, match="onnx:bf16 cannot be"):
        draft.publish(made, "letters", wishes)
    wishes = Wishes(formats=frozenset({"pytorch", "onnx"}), force=True)
    draft.publish(made, "letters", wishes)
    return made


@pytest.fixture
def store(published, tmp_path) -> Store:
    shutil.copytree(published.root, tmp_path / "store")
    return Store(tmp_path / "store")


@pytest.fixture
def tune(kamishibai, store):
    return lambda *arguments: kamishibai("tune", *arguments, "--rounds", 1, "--device", "cpu", "--store", store.root)


def test_the_fastest_variant_within_its_bounds_is_recorded_for_this_kind_of_device(tune, store):
    ended = tune("letters")
    assert ended.status == 0, ended.err
    choice = read_choice(store, "letters", 1, device_class("cpu"))
    assert choice is not None
    assert choice.variant == max(choice.rates, key=lambda variant: choice.rates[variant])
    assert {DEFAULT_VARIANT, "onnx:fp32"} <= choice.rates.keys()
    assert f"run letters@1 as {choice.variant} from now on" in ended.out
    rows = {line.split()[0]: line for line in ended.out.splitlines()}
    assert rows["UNITS/S"].split() == ["UNITS/S", "1", "at", "once", "8", "at", "once", "32", "at", "once"]
    assert rows[DEFAULT_VARIANT].count("(1.00x)") == 3


def test_a_variant_that_was_forced_is_never_chosen(tune, store):
    forced = {variant.name for variant in store.open("letters").manifest.variants if variant.forced}
    assert forced, "this test needs one"
    ended = tune("letters@1")
    choice = read_choice(store, "letters", 1, device_class("cpu"))
    assert choice is not None
    assert not forced & choice.rates.keys()
    for name in forced:
        assert f"{name} " in ended.out
        assert "misses its bounds: " in ended.out


def test_a_model_without_a_variant_that_may_be_chosen_is_left_as_it_is(tune, store):
    path = store.root / "letters" / "1" / MANIFEST
    manifest = Manifest.model_validate_json(path.read_text())
    only = tuple(variant for variant in manifest.variants if variant.forced)
    path.write_text(manifest.model_copy(update={"variants": only}).model_dump_json())
    ended = tune("letters")
    assert ended.status == 1
    assert "has no variant that can be chosen on cpu: " in ended.err
    assert read_choice(store, "letters", 1, device_class("cpu")) is None


@pytest.mark.parametrize(
    ("model", "said"), [("nobody", "has no model nobody"), ("letters@9", "has no model letters@9")]
)
def test_what_is_not_there_is_refused_by_name(tune, model, said):
    ended = tune(model)
    assert ended.status == 1
    assert said in ended.err
