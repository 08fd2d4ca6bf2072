"""Folders that others made: what is wrong is a StoreError of one line, before it takes memory, and leaves no trace."""

from __future__ import annotations

import io
import json
import resource
import shutil
import struct
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from contracts.bundle import TOKENIZER, WEIGHTS
from contracts.errors import StoreError
from contracts.prompt_fields import PromptFields
from contracts.run import RUN
from contracts.tokenizers import CharacterTokenizer
from export.checkpoint import import_checkpoint
from export.huggingface import import_gpt2
from export.run import export_run
from export.tfjs import import_tfjs
from models.lstm import LstmConfig, LstmLanguageModel
from models.pretrained.weights import read_checkpoint
from models.weights import read_safetensors

often = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
HUGE = [10**400, 2**63, 2**40, 2**31, 10**9, 0, -1, 1.5, True, "8", None, [], {}]
MEMORY_BYTES = 512 << 20


@pytest.fixture
def refused(store):
    """Runs an import, which may succeed, or be refused in one line with nothing left of it."""

    def refused(run, must=False):
        try:
            with at_most_more(MEMORY_BYTES):
                bundle = run()
        except StoreError as error:
            refusal = str(error)
        else:
            assert not must, "it was taken"
            shutil.rmtree(bundle.path.parent)
            return
        assert 20 < len(refusal) <= 2000
        assert refusal.isprintable()
        assert not store.root.exists() or list(store.root.iterdir()) == []

    return refused


@contextmanager
def at_most_more(more_bytes):
    """The system gives this process no more memory than so much on top of what it has."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (has + more_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


# tf.js


@often
@given(data=st.data())
def test_a_spoiled_model_json_is_refused_or_runs(tfjs, store, refused, spoiled, data):
    (tfjs.folder / "model.json").write_bytes(data.draw(spoiled(tfjs.topology)))
    refused(lambda: import_tfjs(tfjs.folder, tfjs.corpus, store, "hello"))


@often
@given(data=st.data())
def test_damaged_shards_are_refused_or_run(tfjs, store, refused, damaged, data):
    content = (tfjs.folder / "a.bin").read_bytes()
    (tfjs.folder / "a.bin").write_bytes(data.draw(damaged(content)))
    refused(lambda: import_tfjs(tfjs.folder, tfjs.corpus, store, "hello"))
    (tfjs.folder / "a.bin").write_bytes(content)


def test_a_shard_that_is_named_a_thousand_times_is_not_read_a_thousand_times(tfjs, store, refused):
    (tfjs.folder / "a.bin").write_bytes(bytes(1 << 20))
    (group,) = tfjs.topology["weightsManifest"]
    group["paths"] = ["a.bin"] * 1000
    group["weights"][0]["shape"] = [250, 1 << 20]
    tfjs.save()
    refused(lambda: import_tfjs(tfjs.folder, tfjs.corpus, store, "hello"), must=True)


# Hugging Face


@often
@given(data=st.data())
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_spoiled_checkpoint_is_refused_or_runs(checkpoint, saved_checkpoint, store, refused, spoiled, name, data):
    (checkpoint / name).write_bytes(data.draw(spoiled(json.loads((saved_checkpoint / name).read_text()))))
    refused(lambda: import_gpt2(checkpoint, store, "gpt2"))


@pytest.fixture(scope="session")
def saved_classifier(write_classifier, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    write_classifier(folder, "roberta")
    return folder


@pytest.fixture
def classifier(saved_classifier, tmp_path):
    return shutil.copytree(saved_classifier, tmp_path / "classifier")


@often
@given(data=st.data())
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_spoiled_classifier_is_refused_or_imported(classifier, saved_classifier, store, refused, spoiled, name, data):
    (classifier / name).write_bytes(data.draw(spoiled(json.loads((saved_classifier / name).read_text()))))
    refused(lambda: import_checkpoint(classifier, store, "tags"))


@pytest.mark.parametrize(
    "field",
    ["vocab_size", "max_position_embeddings", "hidden_size", "num_hidden_layers", "intermediate_size"],
)
@pytest.mark.parametrize("value", HUGE, ids=lambda value: repr(value)[:20])
def test_a_classifier_that_lies_about_sizes_is_refused_before_they_take_memory(
    classifier, store, refused, field, value
):
    config = json.loads((classifier / "config.json").read_text())
    (classifier / "config.json").write_text(json.dumps(config | {field: value}))
    refused(lambda: import_checkpoint(classifier, store, "tags"), must=True)


@pytest.mark.parametrize("field", ["vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner"])
@pytest.mark.parametrize("value", HUGE, ids=lambda value: repr(value)[:20])
def test_a_config_that_lies_about_sizes_is_refused_before_they_take_memory(checkpoint, store, refused, field, value):
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {field: value}))
    refused(lambda: import_gpt2(checkpoint, store, "gpt2"), must=(field, value) != ("n_inner", None))


def test_sizes_that_lie_together_are_refused_before_they_take_memory(checkpoint, store, refused):
    lies = {"vocab_size": 10**6, "n_positions": 10**6, "n_embd": 10**6, "n_layer": 20, "n_head": 2}
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | lies))
    refused(lambda: import_gpt2(checkpoint, store, "gpt2"), must=True)


def test_a_context_of_one_token_is_refused(checkpoint, store, refused):
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"n_positions": 1}))
    weights = load_file(checkpoint / "model.safetensors")
    weights["transformer.wpe.weight"] = torch.ones(1, 16)
    save_file({name: weight.contiguous() for name, weight in weights.items()}, checkpoint / "model.safetensors")
    refused(lambda: import_gpt2(checkpoint, store, "gpt2"), must=True)


@pytest.mark.parametrize(
    "change",
    [
        {"transformer.h.0.attn.c_attn.weight": torch.ones(2, 3, 4)},
        {"transformer.h.0.attn.c_attn.weight": torch.ones(())},
        {"transformer.h.0.attn.c_attn.weight": torch.ones(16, 48, dtype=torch.complex64)},
        {"transformer.h.0.attn.c_attn.weight": torch.ones(16, 48, dtype=torch.int64)},
        {"transformer.h.0.attn.c_attn.weight": torch.ones(16, 48, dtype=torch.bool)},
        {"transformer.h.0.attn.c_attn.weight": torch.full((16, 48), 1e300, dtype=torch.float64)},
        {"transformer.h.0.attn.c_attn.weight": torch.ones(0, 48)},
        {"lm_head.weight": torch.ones(290, 16, dtype=torch.float64)},
        {"lm_head.weight": torch.ones(3)},
        {f"transformer.h.{'9' * 5000}.ln_1.weight": torch.ones(16)},
        {"transformer.h.٣.ln_1.weight": torch.ones(16)},
        {"\n\x1b[31m": torch.ones(1)},
    ],
    ids=lambda change: str(next(iter(change)))[:40].encode("unicode_escape").decode(),
)
def test_weights_of_other_shapes_and_types_are_refused(checkpoint, store, refused, change):
    weights = load_file(checkpoint / "model.safetensors") | change
    (checkpoint / "model.safetensors").unlink()
    save_file(weights, checkpoint / "model.safetensors")
    refused(lambda: import_gpt2(checkpoint, store, "gpt2"), must=True)


# Weight files


@often
@given(data=st.data())
def test_damaged_safetensors_are_refused_or_read(tmp_path, damaged, data):
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(4, 3), "b": torch.zeros(5, dtype=torch.int64)}, path)
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = data.draw(st.just(content[8 : 8 + size]) | damaged(content[8 : 8 + size]))
    claimed = data.draw(st.sampled_from([len(header), size, 0, 2**63, 2**64 - 1, len(header) + 1]))
    path.write_bytes(data.draw(damaged(struct.pack("<Q", claimed) + header + content[8 + size :], at_most=1)))
    try:
        weights = read_safetensors(path)
    except StoreError as error:
        refusal = str(error)
    else:
        assert sum(weight.numel() * weight.itemsize for weight in weights.values()) <= path.stat().st_size
        return
    assert "is not a safetensors file" in refusal


@often
@given(data=st.data())
def test_damaged_checkpoints_are_refused_or_read(tmp_path, damaged, data):
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(4, 3)}, buffer, _use_new_zipfile_serialization=data.draw(st.booleans()))
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(data.draw(damaged(buffer.getvalue())))
    try:
        weights = read_checkpoint(path)
    except StoreError as error:
        refusal = str(error)
    else:
        assert sum(weight.numel() * weight.itemsize for weight in weights.values()) <= path.stat().st_size
        return
    assert "pytorch_model.bin" in refusal


def test_an_archive_that_unpacks_to_more_than_it_has_is_refused(tmp_path):
    torch.save({"a": torch.zeros(20_000_000)}, tmp_path / "plain.bin")
    path = tmp_path / "pytorch_model.bin"
    with zipfile.ZipFile(tmp_path / "plain.bin") as plain, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in plain.namelist():
            packed.writestr(entry, plain.read(entry))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(StoreError, match="would unpack to 8000"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "weights",
    [
        {"a": torch.ones(1).expand(1 << 20, 1 << 20)},
        {"a": torch.ones(2, 2).to_sparse()},
        {"a": torch.empty(1 << 20, 1 << 20, device="meta")},
        {1: torch.ones(1)},
    ],
    ids=["repeated", "sparse", "meta", "no name"],
)
def test_a_tensor_whose_values_are_not_all_there_is_refused(tmp_path, weights):
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(StoreError, match=r"does not hold a state dict|is not a file of tensors alone"):
        read_checkpoint(tmp_path / "pytorch_model.bin")


def test_two_names_of_one_tensor_are_refused(checkpoint, store, refused):
    weights = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    weights["transformer.h.1.ln_1.bias"] = weights["transformer.h.0.ln_1.bias"]
    torch.save(weights, checkpoint / "pytorch_model.bin")
    refused(lambda: import_gpt2(checkpoint, store, "gpt2"), must=True)


# Runs


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    save_file(LstmLanguageModel(LstmConfig(4, (8, 6))).state_dict(), folder / WEIGHTS)
    CharacterTokenizer("abc\n").write(folder / TOKENIZER)
    return folder


RUN_OF_OURS = {
    "family": "lstm",
    "task": "text",
    "config": {"vocabulary_size": 4, "layers": [8, 6], "embedding": None, "window": None},
    "tokenizer": "characters",
    "hyperparameters": {"steps": 3},
    "metrics": {"loss": 1.25},
    "example_prompt": "abc",
}
CONFIGS: list[tuple[str, dict[str, Any]]] = [
    ("lstm", {"vocabulary_size": 4, "layers": [8, 6], "window": 9}),
    ("gpt2", {"vocabulary_size": 4, "context_tokens": 8, "width": 8, "layers": 2, "heads": 2, "epsilon": 1e-5}),
    ("dcgan", {"size": 16, "latent": 4, "width": 4, "channels": 3}),
]


@often
@given(data=st.data())
@pytest.mark.parametrize("name", [RUN, TOKENIZER])
def test_a_spoiled_run_is_refused_or_exported(run, store, refused, spoiled, name, data):
    (run / RUN).write_text(json.dumps(RUN_OF_OURS))
    good = json.loads((run / name).read_text()) if name == RUN else {"characters": "abc\n", "unknown": "skip"}
    before = (run / name).read_bytes()
    (run / name).write_bytes(data.draw(spoiled(good)))
    refused(lambda: export_run(run, store, "letters"))
    (run / name).write_bytes(before)


@pytest.mark.parametrize(
    ("family", "field"), [(family, field) for family, config in CONFIGS for field in config], ids="-".join
)
@pytest.mark.parametrize("value", HUGE, ids=lambda value: repr(value)[:20])
def test_a_run_that_lies_about_sizes_is_refused_before_they_take_memory(run, store, refused, family, field, value):
    config = dict(CONFIGS)[family] | {field: [value] if field == "layers" and family == "lstm" else value}
    (run / RUN).write_text(json.dumps(RUN_OF_OURS | {"family": family, "config": config}))
    refused(lambda: export_run(run, store, "letters"), must=field != "window")  # it may be long, and there may be none


# Formats of fields


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("ab<|>_ \n\ud800")) | st.text(st.characters(codec=None)))
def test_any_text_is_a_format_of_fields_or_refused_in_one_line(text):
    try:
        assert PromptFields.from_format(text).fields
    except StoreError as error:
        refusal = str(error)
    else:
        return
    assert "write it like" in refusal
    assert len(refusal) <= 2000
    assert refusal.isprintable()


def test_a_device_is_no_file(tmp_path, store, refused):
    (tmp_path / "endless").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "endless" / name).symlink_to("/dev/zero")
    refused(lambda: import_gpt2(tmp_path / "endless", store, "gpt2"), must=True)
