"""What can be had in which format and precision: refusals by name, the choice, and what a bundle says of it."""

import hashlib

import pytest
import torch
from safetensors.torch import load_file

from contracts.bundle import GRAPHS, WEIGHTS, Bundle, Parity, archive
from contracts.errors import StoreError
from contracts.run import HELD_OUT
from contracts.tokenizers import CharacterTokenizer
from export import parity
from export.draft import Draft
from export.formats import FAMILIES, FORMATS, KINDS, LARGE, PRECISIONS, Kind, Wishes, choose, why_not
from models.dcgan import DcganConfig, generator
from models.gpt2 import Gpt2, Gpt2Config
from models.lstm import LstmConfig, LstmLanguageModel
from models.runtimes.load import load_images, load_text
from models.runtimes.onnx import multiplies_int8_exactly
from models.runtimes.programs import read_torchscript
from models.weights import family_of
from workers.engines.loading import load_model

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

CPU = torch.device("cpu")
LETTERS = "abcdefgh "
GPT2 = Gpt2Config(len(LETTERS), context_tokens=64, width=32, layers=2, heads=2)
LSTM = LstmConfig(len(LETTERS), (16, 8))
WINDOWED = LstmConfig(len(LETTERS), (16, 8), embedding=6, recurrent_activation="hard_sigmoid", window=5)
DCGAN = DcganConfig(size=16, latent=8, width=8)
CONFIGS = pytest.mark.parametrize("config", [GPT2, LSTM, WINDOWED, DCGAN], ids=["gpt2", "lstm", "windowed", "dcgan"])
REFUSED = {
    "pytorch:int8": "scales activations by the largest of a whole batch",
    "torchscript:int8": "scales activations by the largest of a whole batch",
    "onnx:bf16": "no bf16 MatMul",
}
REFUSED_BY_FAMILY = {
    "gpt2": {**REFUSED, "pt2:int8": "scales activations"},
    "lstm": {
        **REFUSED,
        **dict.fromkeys((f"pt2:{precision}" for precision in PRECISIONS), "unrolls an LSTM's loop"),
        "onnx:fp16": "no fp16 Gemm",
    },
    "dcgan": {
        "onnx:bf16": "no bf16 MatMul",
        **dict.fromkeys(("pytorch:int8", "torchscript:int8", "pt2:int8"), "torch.ao.quantization"),
    },
}
VNNI = pytest.mark.skipif(not multiplies_int8_exactly(), reason="this processor has no VNNI")


def draft(config, **fields):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        if isinstance(config, DcganConfig):
            return Draft(config, generator(config).state_dict(), None, None, {}, **fields)
        model = Gpt2(config) if isinstance(config, Gpt2Config) else LstmLanguageModel(config)
    for weight in model.parameters():
        weight.data *= 3  # peaked enough that a wrong operation shows
    return Draft(config, model.state_dict(), CharacterTokenizer(LETTERS), "a bad egg", {}, **fields)


@CONFIGS
def test_every_pair_that_cannot_be_is_refused_by_name_with_its_reason(config):
    refusals = REFUSED_BY_FAMILY[family_of(config)]
    assert {kind.name for kind in KINDS if why_not(config, kind)} == set(refusals)
    for kind in KINDS:
        wishes = Wishes(frozenset({kind.format}), frozenset({kind.precision}))
        if kind.name in refusals:
            with pytest.raises(StoreError, match=f"^{kind.name} cannot be: .*{refusals[kind.name]}"):
                choose(config, wishes)
        else:
            assert choose(config, wishes) in {(Kind("pytorch", "fp32"), kind), (kind,)}


def test_all_pairs_that_cannot_be_are_named_at_once():
    with pytest.raises(StoreError, match=r"pytorch:int8 cannot be: .*; onnx:bf16 cannot be: "):
        choose(GPT2, Wishes(frozenset({"pytorch", "onnx"}), frozenset({"int8", "bf16"})))


def test_a_format_alone_stands_for_the_precisions_that_the_model_can_have():
    names = [kind.name for kind in choose(LSTM, Wishes(frozenset({"onnx"})))]
    assert names == ["pytorch:fp32", "onnx:fp32", *(["onnx:int8"] if multiplies_int8_exactly() else [])]
    with pytest.raises(StoreError, match=r"pt2:fp32 cannot be: .*; pt2:int8 cannot be"):
        choose(LSTM, Wishes(frozenset({"pt2"})))


def test_a_precision_alone_stands_for_the_formats_that_have_it():
    names = [kind.name for kind in choose(GPT2, Wishes(precisions=frozenset({"bf16"})))]
    assert names == ["pytorch:fp32", "pytorch:bf16", "torchscript:bf16", "pt2:bf16"]


def test_without_wishes_no_second_copy_of_the_weights_is_written():
    assert {kind.format for kind in choose(GPT2, Wishes())} == {"pytorch", "onnx"}


def test_large_models_go_without_fp16_unless_it_is_asked_for():
    assert "fp16" not in {kind.precision for kind in choose(GPT2, Wishes(), LARGE)}
    assert "fp16" in {kind.precision for kind in choose(GPT2, Wishes(), LARGE - 1)}
    assert Kind("pytorch", "fp16") in choose(GPT2, Wishes(frozenset({"pytorch"})), LARGE)


def test_without_onnx_its_variants_are_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr("export.formats.find_spec", lambda name: None)
    assert {kind.format for kind in choose(GPT2, Wishes())} == {"pytorch"}
    with pytest.raises(StoreError, match="pip install"):
        choose(GPT2, Wishes(frozenset({"onnx"})))


def test_on_a_processor_that_cannot_multiply_int8_exactly_it_is_refused(monkeypatch):
    monkeypatch.setattr("export.formats.multiplies_int8_exactly", lambda: False)
    with pytest.raises(StoreError, match="VNNI"):
        choose(GPT2, Wishes(frozenset({"onnx"}), frozenset({"int8"})))


def test_every_family_says_of_every_pair_whether_it_can_be():
    assert all(set(formats.writers) == set(KINDS) for formats in FAMILIES.values())


@CONFIGS
def test_every_variant_that_can_be_keeps_its_bounds_and_its_rows_bits(store, config):
    bundle = draft(config).publish(store, "tiny", Wishes(frozenset(FORMATS)))
    possible = {kind.name for kind in KINDS if why_not(config, kind) is None}
    assert set(bundle.variants()) == possible
    for variant in bundle.manifest.variants[1:]:
        assert variant.parity is not None
        assert variant.parity.batch_invariant, variant.name
        assert variant.parity.faults == ()
        assert not variant.forced
        assert set(variant.files) <= set(bundle.manifest.files)


@CONFIGS
def test_every_variant_is_served_but_pt2(store, config):
    bundle = Bundle.open(draft(config).publish(store, "tiny", Wishes(frozenset(FORMATS))).path)
    for variant in bundle.manifest.variants:
        if variant.format == "pt2":
            with pytest.raises(StoreError, match=f"{variant.name} is there to be taken elsewhere .* pickle"):
                load_model(bundle, variant.name, CPU)
        else:
            assert load_model(bundle, variant.name, CPU).probe.batch_invariant


@CONFIGS
def test_every_graph_is_valid_onnx(store, config):
    bundle = draft(config).publish(store, "tiny", Wishes(frozenset({"onnx"})))
    graphs = [bundle.path / name for name in GRAPHS.values() if (bundle.path / name).exists()]
    assert graphs
    for graph in graphs:
        onnx.checker.check_model(graph, full_check=config is not GPT2)  # its operators are ONNX Runtime's own


def test_graphs_share_the_weights_that_they_can(store):
    bundle = draft(GPT2).publish(store, "tiny", Wishes(frozenset({"onnx"})))
    assert (bundle.path / GRAPHS["fp32"]).stat().st_size < (bundle.path / WEIGHTS).stat().st_size


def test_the_weights_of_fp32_archives_are_the_bundles(store):
    bundle = draft(LSTM).publish(store, "tiny", Wishes(frozenset({"torchscript"}), frozenset({"fp32"})))
    program = read_torchscript(bundle, bundle.variant("torchscript:fp32"), CPU)
    expected = load_file(bundle.path / WEIGHTS)
    assert all(
        torch.equal(weight, expected[name.removeprefix("model.")]) for name, weight in program.named_parameters()
    )


@CONFIGS
def test_archives_and_modules_give_the_same_bits_or_nearly(store, config):
    bundle = draft(config).publish(store, "tiny", Wishes(frozenset({"torchscript"}), frozenset({"fp32"})))
    found = bundle.variant("torchscript:fp32").parity
    assert found.max_difference <= (1e-6 if config is DCGAN else 0.0)  # batch norm is folded


def test_an_archive_that_is_none_is_refused(store):
    bundle = draft(LSTM).publish(store, "tiny", Wishes(frozenset({"torchscript"})))
    (bundle.path / archive("torchscript", "fp32")).write_bytes(b"nothing")
    with pytest.raises(StoreError, match="bytes instead of"):
        Bundle.open(bundle.path)
    with pytest.raises(StoreError, match="is not a TorchScript archive"):
        load_text(bundle, bundle.variant("torchscript:fp32"), CPU)


def test_text_and_pictures_are_not_taken_for_each_other(store):
    writes = draft(LSTM).publish(store, "writes", Wishes(frozenset({"torchscript", "onnx"})))
    draws = draft(DCGAN).publish(store, "draws", Wishes(frozenset({"torchscript", "onnx"})))
    for name in ("pytorch:fp32", "torchscript:fp32", "onnx:fp32"):
        with pytest.raises(StoreError, match="draws no pictures"):
            load_images(writes, writes.variant(name), CPU)
        with pytest.raises(StoreError, match="writes no text"):
            load_text(draws, draws.variant(name), CPU)


@VNNI
def test_a_variant_that_misses_its_bound_is_left_out_and_says_why(store, monkeypatch):
    monkeypatch.setitem(parity.MOST_KL, "int8", 1e-12)
    wishes = Wishes(frozenset({"onnx"}))
    manifest = draft(GPT2).publish(store, "tiny", wishes).manifest
    assert "onnx:int8" not in [variant.name for variant in manifest.variants]
    assert "its mean KL divergence is" in manifest.left_out["onnx:int8"]
    assert GRAPHS["int8"] not in manifest.files
    assert GRAPHS["fp32"] in manifest.files


@VNNI
def test_a_forced_variant_stays_and_says_so(store, monkeypatch):
    monkeypatch.setitem(parity.MOST_KL, "int8", 1e-12)
    bundle = draft(GPT2).publish(store, "tiny", Wishes(frozenset({"onnx"}), force=True))
    assert bundle.variant("onnx:int8").forced
    assert not bundle.variant("onnx:fp32").forced
    assert bundle.manifest.left_out == {}
    assert "nats, more than 1e-12" in bundle.variant("onnx:int8").parity.faults[0]


@VNNI
def test_int8_of_untrained_weights_is_measured_but_not_judged(store, monkeypatch):
    monkeypatch.setitem(parity.MOST_KL, "int8", 1e-12)
    found = draft(GPT2, trained=False).publish(store, "tiny", Wishes(frozenset({"onnx"}))).variant("onnx:int8").parity
    assert found.mean_kl > 1e-12
    assert found.faults == ()
    assert not found.trained


def test_perplexity_is_judged_on_held_out_text_only(store):
    wishes = Wishes(frozenset({"pytorch"}))
    assert draft(LSTM).publish(store, "tiny", wishes).variant("pytorch:bf16").parity.perplexity_ratio is None
    judged = draft(LSTM, held_out="a bad egg had a bad bed " * 20).publish(store, "tiny", wishes)
    assert judged.variant("pytorch:bf16").parity.perplexity_ratio == pytest.approx(1, abs=0.05)
    assert HELD_OUT not in judged.manifest.files


def test_the_text_that_is_wished_for_stands_before_that_of_the_run(store):
    other = "feed a hag egg had bad " * 20
    published = [
        draft(LSTM, held_out=own).publish(store, "tiny", Wishes(frozenset({"pytorch"}), held_out=wished))
        for own, wished in (("a bad egg had a bad bed " * 20, other), (other, None))
    ]
    ratios = [bundle.variant("pytorch:bf16").parity.perplexity_ratio for bundle in published]
    assert ratios[0] == ratios[1]
    assert [bundle.manifest.provenance for bundle in published] == [
        {"held_out_sha256": hashlib.sha256(other.encode()).hexdigest()},
        {},
    ]


@pytest.mark.parametrize(
    ("config", "text", "said"),
    [
        (LSTM, "zzz", "has 0 tokens that the model knows; give at least 4"),
        (GPT2, "abc", "has 3 tokens"),
        (DCGAN, "a bad egg", "only a model that writes text is judged by a text; leave --text out"),
    ],
)
def test_a_text_that_cannot_be_judged_by_is_refused_and_nothing_is_written(store, config, text, said):
    with pytest.raises(StoreError, match=said):
        draft(config).publish(store, "tiny", Wishes(frozenset({"pytorch"}), held_out=text))
    assert store.names() == []


MEASURED = Parity(max_difference=1e-5, mean_difference=1e-6, batch_invariant=True, trained=True)


@pytest.mark.parametrize(
    ("precision", "found", "fault"),
    [
        ("fp32", {"max_difference": 1.1e-4}, "differs by up to 0.00011, more than 1e-04"),
        ("fp32", {"max_logit_difference": 1.1e-3, "reference_error": 1e-4}, "more than 10 times the reference's own"),
        ("fp16", {"mean_kl": 1.1e-3}, "mean KL divergence is 0.0011 nats, more than 1e-03"),
        ("bf16", {"mean_kl": 1.1e-3}, "mean KL divergence"),
        ("int8", {"mean_kl": 1.1e-2}, "mean KL divergence"),
        ("int8", {"perplexity_ratio": 1.011}, r"perplexity is 1.011 times the reference's, over 1% off"),
        ("int8", {"perplexity_ratio": 0.985}, r"perplexity is 0.985"),
        ("fp16", {"psnr_db": 39.9}, r"PSNR is 39.9 dB, less than 40"),
    ],
)
def test_every_bound_is_held(precision, found, fault):
    (message,) = parity.faults(MEASURED.model_copy(update=found), precision)
    assert fault in message


@pytest.mark.parametrize(
    ("precision", "found"),
    [
        ("fp32", {"max_difference": 1e-4, "max_logit_difference": 1e-3, "reference_error": 1.1e-4}),
        ("fp16", {"max_difference": 0.3, "mean_kl": 1e-3, "psnr_db": 40.0}),
        ("int8", {"max_difference": 0.3, "mean_kl": 1e-2, "perplexity_ratio": 1.009}),
        ("int8", {"mean_kl": 3.0, "perplexity_ratio": 2.0, "trained": False}),
    ],
)
def test_what_keeps_its_bounds_has_no_faults(precision, found):
    assert list(parity.faults(MEASURED.model_copy(update=found), precision)) == []
