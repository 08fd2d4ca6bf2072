"""Every form in which GPT-2 checkpoints come gives the same bundle; what models/gpt2.py does not compute is refused."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from contracts.bundle import WEIGHTS
from contracts.errors import StoreError
from contracts.store import Store
from export.huggingface import import_gpt2


def _weights(bundle):
    return load_file(bundle.path / WEIGHTS)


def _rewrite(checkpoint, change):
    """Replaces the checkpoint's tensors by what `change` makes of them."""
    weights = change(load_file(checkpoint / "model.safetensors"))
    (checkpoint / "model.safetensors").unlink()
    save_file({name: weight.contiguous() for name, weight in weights.items()}, checkpoint / "model.safetensors")


@pytest.fixture
def expected(saved_checkpoint, tmp_path):
    return _weights(import_gpt2(saved_checkpoint, Store(tmp_path / "reference"), "gpt2"))


def _as_bin(checkpoint):
    torch.save(load_file(checkpoint / "model.safetensors"), checkpoint / "pytorch_model.bin")
    (checkpoint / "model.safetensors").unlink()


def _as_shards(checkpoint):
    weights = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    names = sorted(weights)
    places = {name: f"model-{index % 2 + 1}-of-2.safetensors" for index, name in enumerate(names)}
    for shard in set(places.values()):
        save_file({name: weights[name] for name in names if places[name] == shard}, checkpoint / shard)
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def _without_prefix(checkpoint):
    _rewrite(checkpoint, lambda weights: {name.removeprefix("transformer."): w for name, w in weights.items()})


def _with_old_buffers(checkpoint):
    mask = {"transformer.h.0.attn.bias": torch.ones(1, 1, 32, 32), "h.1.attn.masked_bias": torch.tensor(-1e4)}
    _rewrite(checkpoint, lambda weights: weights | mask)


def _with_tied_head(checkpoint):
    _rewrite(checkpoint, lambda weights: weights | {"lm_head.weight": weights["transformer.wte.weight"].clone()})


@pytest.mark.parametrize("form", [_as_bin, _as_shards, _without_prefix, _with_old_buffers, _with_tied_head])
def test_every_form_of_a_checkpoint_gives_the_same_weights(checkpoint, store, expected, form):
    form(checkpoint)
    weights = _weights(import_gpt2(checkpoint, store, "gpt2"))
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_half_precision_becomes_fp32(checkpoint, store, expected):
    _rewrite(checkpoint, lambda weights: {name: weight.half() for name, weight in weights.items()})
    weights = _weights(import_gpt2(checkpoint, store, "gpt2"))
    assert all(weight.dtype == torch.float32 for weight in weights.values())
    assert all(torch.equal(weights[name], expected[name].half().float()) for name in expected)


def test_the_manifest_tells_what_the_model_is(checkpoint, store):
    manifest = import_gpt2(checkpoint, store, "gpt2").manifest
    assert (manifest.family, manifest.task, manifest.tokenizer) == ("gpt2", "text", "bpe")
    assert (manifest.limits.context_tokens, manifest.limits.max_tokens) == (32, None)
    assert manifest.provenance["source"] == "huggingface"
    assert set(manifest.provenance["sha256"]) == {"config.json", "model.safetensors", "tokenizer.json"}


def test_vocabulary_and_merges_stand_in_for_the_tokenizer_file(checkpoint, store):
    whole = import_gpt2(checkpoint, store, "gpt2").tokenizer()
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text())["model"]
    (checkpoint / "tokenizer.json").unlink()
    (checkpoint / "vocab.json").write_text(json.dumps(tokenizer["vocab"]))
    merges = "".join(" ".join(pair) + "\n" for pair in tokenizer["merges"])
    (checkpoint / "merges.txt").write_text("#version: 0.2\n" + merges)
    parts = import_gpt2(checkpoint, store, "gpt2").tokenizer()
    text = "Once upon a time — the old castle 城<|endoftext|> town"
    assert parts.encode(text) == whole.encode(text)
    assert parts.end_token == whole.end_token is not None


@pytest.mark.data
def test_gpt2s_own_tokenizer_gives_its_known_tokens(data_folder, tmp_path, store):
    transformers.utils.logging.set_verbosity_error()
    config = transformers.GPT2Config(n_positions=16, n_embd=8, n_layer=1, n_head=1)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((data_folder / "gpt2_tokenizer" / name).read_bytes())
    tokenizer = import_gpt2(tmp_path, store, "gpt2").tokenizer()
    assert tokenizer.encode("Hello world<|endoftext|>") == [15496, 995, 50256]
    assert tokenizer.end_token == 50256


CONFIG_REFUSALS = [
    ("model_type", "gpt_neo"),
    ("activation_function", "gelu"),
    ("activation_function", "relu"),
    ("scale_attn_by_inverse_layer_idx", True),
    ("scale_attn_weights", False),
    ("reorder_and_upcast_attn", True),
    ("add_cross_attention", True),
    ("n_inner", 32),
    ("n_head", 3),
    ("n_layer", 0),
    ("n_embd", "wide"),
    ("vocab_size", None),
]


@pytest.mark.parametrize(("field", "value"), CONFIG_REFUSALS)
def test_what_our_model_does_not_compute_is_refused_by_name(checkpoint, store, field, value):
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(StoreError, match="heads do not divide" if value == 3 else field):
        import_gpt2(checkpoint, store, "gpt2")


def _untied(weights):
    return weights | {"lm_head.weight": torch.randn_like(weights["transformer.wte.weight"])}


def _without(name):
    return lambda weights: {key: weight for key, weight in weights.items() if key != name}


WEIGHT_REFUSALS = {
    "untied head": (_untied, "lm_head.weight differs"),
    "missing": (_without("transformer.h.1.mlp.c_fc.bias"), "lack blocks.1.up.bias"),
    "classifier": (lambda weights: weights | {"score.weight": torch.ones(2, 16)}, "score.weight"),
    "more layers": (lambda weights: weights | {"h.2.ln_1.bias": torch.ones(16)}, "blocks.2.norm1.bias"),
    "another width": (lambda weights: weights | {"transformer.wpe.weight": torch.ones(33, 16)}, "positions.weight is"),
    "not finite": (lambda weights: weights | {"transformer.ln_f.bias": torch.full((16,), torch.nan)}, "not finite"),
}


@pytest.mark.parametrize(("change", "fault"), WEIGHT_REFUSALS.values(), ids=WEIGHT_REFUSALS.keys())
def test_weights_that_do_not_fit_are_refused_by_name(checkpoint, store, change, fault):
    _rewrite(checkpoint, change)
    with pytest.raises(StoreError, match=fault):
        import_gpt2(checkpoint, store, "gpt2")
    assert store.names() == []


class _Payload:
    """What a hostile checkpoint holds: an object whose unpickling calls a function."""

    def __reduce__(self):
        return print, ("this must never run",)


@pytest.mark.parametrize("content", [{"wte.weight": _Payload()}, [torch.ones(2)], {"wte.weight": "text"}])
def test_a_checkpoint_with_more_than_tensors_is_refused(checkpoint, store, capsys, content):
    (checkpoint / "model.safetensors").unlink()
    torch.save(content, checkpoint / "pytorch_model.bin")
    with pytest.raises(StoreError, match=r"pytorch_model\.bin"):
        import_gpt2(checkpoint, store, "gpt2")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"", b"{}", b"garbage \xff"])
def test_damaged_files_are_refused_by_name(checkpoint, store, name, content):
    (checkpoint / name).write_bytes(content)
    fault = "tokenizer in" if name == "tokenizer.json" else name
    with pytest.raises(StoreError, match=fault):
        import_gpt2(checkpoint, store, "gpt2")


@pytest.mark.parametrize(("missing", "fault"), [("model.safetensors", "no weights"), ("tokenizer.json", "vocab.json")])
def test_missing_files_are_named(checkpoint, store, missing, fault):
    (checkpoint / missing).unlink()
    with pytest.raises(StoreError, match=fault):
        import_gpt2(checkpoint, store, "gpt2")


def test_an_index_cannot_name_files_elsewhere(checkpoint, store):
    (checkpoint / "model.safetensors").rename(checkpoint.parent / "outside.safetensors")
    index = {"weight_map": {"wte.weight": "../outside.safetensors"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(StoreError, match=r"names a file '\.\./outside\.safetensors'"):
        import_gpt2(checkpoint, store, "gpt2")


def test_truncation_of_somebodys_training_does_not_cut_prompts(checkpoint, store):
    content = json.loads((checkpoint / "tokenizer.json").read_text())
    content["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    (checkpoint / "tokenizer.json").write_text(json.dumps(content))
    assert len(import_gpt2(checkpoint, store, "gpt2").tokenizer().encode("the old castle town")) > 2
