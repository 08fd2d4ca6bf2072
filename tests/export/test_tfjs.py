"""A tf.js model runs as tf.js ran it, and one that cannot is refused by name."""

import json

import numpy as np
import pytest
import torch

from contracts.errors import StoreError
from export.tfjs import import_tfjs
from models.runtimes import Chunk
from models.runtimes.pytorch import load_text

CPU = torch.device("cpu")


def _greedy(bundle, prompt, count):
    backend = load_text(bundle, CPU)
    backend.reset(2)
    backend.prefill([Chunk(2, 0, prompt[:-1])])
    text = list(prompt)
    for _ in range(count):
        logits = backend.decode([0, 0, text[-1], 0], [0, 0, len(text) - 1, 0], [False, False, True, False])
        text.append(int(logits[2].argmax()))
    return text


def _greedy_by_numpy(model, prompt, window, count):
    text = list(prompt)
    for _ in range(count):
        text.append(int(model.logits(np.array([text[-window:]]))[0].argmax()))
    return text


def test_an_imported_model_writes_what_the_reference_writes(tfjs, store):
    bundle = import_tfjs(tfjs.folder, tfjs.corpus, store, "hello")
    tokenizer = bundle.tokenizer()
    assert [tokenizer.token_bytes(token) for token in range(8)] == [c.encode() for c in "Helo wrd"]
    prompt = tokenizer.encode("world")
    assert _greedy(bundle, prompt, 40) == _greedy_by_numpy(tfjs, prompt, 5, 40)


def test_the_manifest_tells_what_the_model_is(tfjs, store):
    manifest = import_tfjs(tfjs.folder, tfjs.corpus, store, "hello").manifest
    assert (manifest.family, manifest.task, manifest.tokenizer) == ("lstm", "text", "characters")
    assert manifest.config["layers"] == [8, 6]
    assert (manifest.config["window"], manifest.config["recurrent_activation"]) == (5, "hard_sigmoid")
    assert (manifest.limits.max_tokens, manifest.limits.context_tokens) == (4096, None)
    assert manifest.example.prompt == "Hello"
    assert set(manifest.provenance["sha256"]) == {"model.json", "a.bin", "b.bin"}


def test_the_layers_may_lie_in_an_object_as_later_versions_write_them(tfjs, store):
    tfjs.topology["modelTopology"]["config"] = {"name": "sequential_1", "layers": tfjs.layers}
    tfjs.save()
    assert import_tfjs(tfjs.folder, tfjs.corpus, store, "hello").manifest.config["window"] == 5


@pytest.mark.data
@pytest.mark.parametrize(
    ("windows", "nats"), [(slice(0, 500), 2.149), (slice(-500, None), 1.812)], ids=["first", "last"]
)
def test_the_trained_model_keeps_its_loss(shakespeare, store, windows, nats):
    """The losses that were measured on tf.js' own definition; over the whole text it is 1.925 nats."""
    bundle = import_tfjs(shakespeare.folder, shakespeare.corpus, store, "shakespeare")
    tokens = np.array(bundle.tokenizer().encode(shakespeare.corpus.read_text(encoding="utf-8")))
    begins = np.arange(len(tokens) - 60)[windows]
    inputs, targets = tokens[begins[:, None] + np.arange(60)], torch.from_numpy(tokens[begins + 60])
    logits = torch.cat([_decode_windows(load_text(bundle, CPU), part) for part in np.split(inputs, 10)])
    torch.testing.assert_close(logits, torch.from_numpy(shakespeare.logits(inputs)).float(), atol=1e-3, rtol=0)
    assert float(torch.nn.functional.cross_entropy(logits, targets)) == pytest.approx(nats, abs=1e-3)


def _decode_windows(backend, windows):
    for slot, window in enumerate(windows.tolist()):
        backend.reset(slot)
        backend.prefill([Chunk(slot, 0, window[:32])])
        backend.prefill([Chunk(slot, 32, window[32:-1])])
    return backend.decode(windows[:, -1].tolist(), [59] * len(windows), [True] * len(windows))


@pytest.mark.data
def test_the_trained_model_writes_what_the_reference_writes(shakespeare, store):
    bundle = import_tfjs(shakespeare.folder, shakespeare.corpus, store, "shakespeare")
    prompt = bundle.tokenizer().encode("To be, or not to be")
    assert _greedy(bundle, prompt, 100) == _greedy_by_numpy(shakespeare, prompt, 60, 100)


def _set(*path, to):
    """Sets one place of model.json."""

    def change(model):
        part = model.topology
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = to

    return change


def _layer(index, field, value):
    return _set("modelTopology", "config", index, "config", field, to=value)


def _weight(index, field, value):
    return _set("weightsManifest", 0, "weights", index, field, to=value)


REFUSALS = {
    "layer class": (_set("modelTopology", "config", 0, "class_name", to="GRU"), "GRU"),
    "model class": (_set("modelTopology", "class_name", to="Model"), "modelTopology.class_name"),
    "activation": (_layer(0, "activation", "relu"), "activation' is 'relu'"),
    "recurrent activation": (_layer(1, "recurrent_activation", "tanh"), "recurrent_activation' is 'tanh'"),
    "mixed recurrent activations": (_layer(1, "recurrent_activation", "sigmoid"), "differs between the LSTM layers"),
    "output activation": (_layer(2, "activation", "linear"), "activation' is 'linear'"),
    "no bias": (_layer(0, "use_bias", False), "use_bias"),
    "backwards": (_layer(0, "go_backwards", True), "go_backwards"),
    "sequences": (_layer(1, "return_sequences", True), "return_sequences must be true"),
    "units": (_layer(0, "units", -8), "units"),
    "input shape": (_layer(0, "batch_input_shape", [None, 5, 9]), "batch_input_shape"),
    "open window": (_layer(0, "batch_input_shape", [None, None, 8]), "batch_input_shape"),
    "quantized": (_weight(0, "quantization", {"dtype": "uint8"}), "quantization"),
    "dtype": (_weight(0, "dtype", "float16"), "dtype' is 'float16'"),
    "negative size": (_weight(0, "shape", [-8, 32]), "shape"),
    "wrong size": (_weight(0, "shape", [8, 33]), "model.json says"),
    "huge size": (_weight(0, "shape", [2**60, 2**60]), "model.json says"),
    "wrong shape": (_weight(0, "shape", [32, 8]), "weight_ih_l0 is"),
    "missing weight": (_weight(0, "name", "lstm_0/kernels"), "lists no weight lstm_0/kernel"),
    "layers": (lambda model: model.layers.pop(), "only LSTM layers and then one Dense"),
    "traversal": (_set("weightsManifest", 0, "paths", to=["../a.bin", "b.bin"]), "names a file '../a.bin'"),
    "absolute path": (_set("weightsManifest", 0, "paths", to=["/etc/passwd"]), "names a file '/etc/passwd'"),
    "missing file": (_set("weightsManifest", 0, "paths", to=["a.bin", "c.bin"]), "c.bin cannot be read"),
    "no topology": (lambda model: model.topology.pop("modelTopology"), "'modelTopology' is missing"),
    "corpus": (lambda model: model.corpus.write_text("Hello"), "4 different characters, the model 8"),
    "corpus bytes": (lambda model: model.corpus.write_bytes(b"\xff\xfe"), "cannot be read as UTF-8"),
    "no corpus": (lambda model: model.corpus.unlink(), "cannot be read as UTF-8"),
}


@pytest.mark.parametrize(("change", "fault"), REFUSALS.values(), ids=REFUSALS.keys())
def test_what_cannot_be_run_is_refused_by_name(tfjs, store, change, fault):
    change(tfjs)
    tfjs.save()
    with pytest.raises(StoreError, match=fault.replace("[", "\\[")):
        import_tfjs(tfjs.folder, tfjs.corpus, store, "hello")
    assert store.names() == []


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, json.dumps({"modelTopology": 1}).encode()]
)
def test_a_broken_model_json_is_refused(tfjs, store, content):
    (tfjs.folder / "model.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"model\.json"):
        import_tfjs(tfjs.folder, tfjs.corpus, store, "hello")


def test_a_folder_without_a_model_is_refused(tmp_path, tfjs, store):
    with pytest.raises(StoreError, match=r"model\.json cannot be read: No such file"):
        import_tfjs(tmp_path, tfjs.corpus, store, "hello")


def test_weights_that_are_not_finite_are_refused(tfjs, store):
    (tfjs.folder / "a.bin").write_bytes(b"\x00\x00\xc0\x7f" * 250 + b"\x00")
    with pytest.raises(StoreError, match="not finite"):
        import_tfjs(tfjs.folder, tfjs.corpus, store, "hello")
