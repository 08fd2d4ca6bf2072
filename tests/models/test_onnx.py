"""The ONNX variants compute what PyTorch does, and a row's bits do not depend on its neighbours."""

import sys

import pytest
import torch
from safetensors.torch import save_file

from contracts.bundle import GRAPHS, WEIGHTS, WRITERS
from contracts.errors import StoreError
from models.gpt2 import Gpt2, Gpt2Config
from models.lstm import LstmConfig, LstmLanguageModel
from models.runtimes.onnx import OnnxGpt2Backend, OnnxLstmBackend, multiplies_int8_exactly
from models.runtimes.onnx_session import open_session
from models.runtimes.pytorch import Gpt2Backend, LstmBackend

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
import onnx

from export.onnx_gpt2 import write_onnx_gpt2
from export.onnx_lstm import write_onnx_lstm

VNNI = pytest.mark.skipif(not multiplies_int8_exactly(), reason="this processor has no VNNI")
VOCABULARY = 211
GPT2 = Gpt2Config(VOCABULARY, context_tokens=192, width=96, layers=2, heads=4)
CHARACTERS = LstmConfig(VOCABULARY, (128, 96))
WORDS = LstmConfig(VOCABULARY, (320, 64), embedding=50, recurrent_activation="hard_sigmoid")
STEPS = 4
FP32, INT8 = GRAPHS["fp32"], GRAPHS["int8"]

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=[GPT2, CHARACTERS, WORDS], ids=["gpt2", "characters", "words"])
def config(request):
    return request.param


@pytest.fixture(scope="module")
def model(config):
    with torch.random.fork_rng():
        torch.manual_seed(8)
        made = Gpt2(config) if isinstance(config, Gpt2Config) else LstmLanguageModel(config)
    for weight in made.parameters():
        weight.data *= 4  # peaked enough that a wrong operation shows
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model, config):
    path = tmp_path_factory.mktemp("onnx")
    save_file(model.state_dict(), path / WEIGHTS)
    for precision in ("fp32", "int8"):
        (write_onnx_gpt2 if isinstance(config, Gpt2Config) else write_onnx_lstm)(path, config, precision)
    return path


@pytest.fixture(scope="module")
def reference(model):
    return Gpt2Backend(model, CPU) if isinstance(model, Gpt2) else LstmBackend(model, CPU)


@pytest.fixture
def load(folder, config):
    if isinstance(config, Gpt2Config):
        return lambda graph: OnnxGpt2Backend(folder / graph, config)
    writers = {GRAPHS[precision]: folder / WRITERS[precision] for precision in WRITERS}
    return lambda graph: OnnxLstmBackend(folder / graph, config, writer_graph=writers[graph])


def _texts(generator, lengths):
    return [torch.randint(VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


def _logits(backend, read_prompts, texts):
    """Of the last STEPS tokens of all texts, read and decoded together: (STEPS, texts, vocabulary)."""
    read_prompts(backend, {row: tokens[: len(tokens) - STEPS + 1] for row, tokens in enumerate(texts)})
    seen = []
    for step in range(STEPS, 0, -1):
        tokens, positions = [text[-step] for text in texts], [len(text) - step for text in texts]
        seen.append(backend.decode(tokens, positions, [True] * len(texts)).clone())
    return torch.stack(seen)


@pytest.mark.parametrize(("graph", "tolerance"), [(FP32, 1e-5), pytest.param(INT8, 0.1, marks=VNNI)])
def test_logits_are_those_of_pytorch(load, reference, read_prompts, generator, graph, tolerance):
    texts = _texts(generator, [5, 192, 33, 70])
    expected = _logits(reference, read_prompts, texts)
    found = _logits(load(graph), read_prompts, texts)
    assert (found - expected).square().mean().sqrt() < tolerance * expected.std()


def test_greedy_text_is_that_of_pytorch(load, reference, greedy, generator):
    prompts = dict(enumerate(_texts(generator, [3, 40, 64, 100])))
    assert greedy(load(FP32), prompts, 30) == greedy(reference, prompts, 30)


@pytest.mark.parametrize("graph", [FP32, INT8])
@pytest.mark.parametrize("tokens", [7, 75])
def test_logits_do_not_depend_on_bucket_slot_and_neighbours(load, read_prompts, generator, threads, graph, tokens):
    backend = load(graph)
    (text,) = _texts(generator, [tokens])
    alone = _logits(backend, read_prompts, [text])[:, 0]
    for rows in (2, 4, 8, 16, 32, 64):
        for slot in (0, rows // 2, rows - 1):
            texts = _texts(generator, torch.randint(STEPS, 150, (rows,), generator=generator).tolist())
            texts[slot] = text
            assert torch.equal(_logits(backend, read_prompts, texts)[:, slot], alone), f"{rows} rows, slot {slot}"


def test_rows_that_are_not_active_keep_their_state(load, read_prompts, generator):
    backend = load(INT8)
    texts = _texts(generator, [20, 30])
    expected = _logits(backend, read_prompts, texts)
    read_prompts(backend, {row: tokens[: len(tokens) - STEPS + 1] for row, tokens in enumerate(texts)})
    for _ in range(3):
        backend.decode([1, 2], [16, 26], [False, False])
    found = backend.decode([texts[0][-STEPS], texts[1][-STEPS]], [16, 26], [True, True])
    assert torch.equal(found, expected[0])


def test_a_copied_slot_goes_on_as_its_source_and_a_wiped_one_forgets_even_what_is_no_number(
    load, read_prompts, generator
):
    backend = load(FP32)
    (text,) = _texts(generator, [40])
    read_prompts(backend, {1: text})
    backend.copy(1, [0, 3], 0, 39)
    logits = backend.decode([text[-1]] * 4, [39] * 4, [True] * 4).clone()
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[3], logits[1])
    assert not torch.equal(logits[2], logits[1]), "that slot is another's"
    parts = vars(backend).values()
    held = [each for part in parts for each in (part.values() if isinstance(part, dict) else [part])]
    memory = [tensor.fill_(torch.nan) for tensor in held if isinstance(tensor, torch.Tensor)]
    for slot in range(backend.slots):
        backend.wipe(slot)
    assert memory
    assert not any(tensor.isnan().any() for tensor in memory)
    read_prompts(backend, {1: text})
    assert torch.equal(backend.decode([0, text[-1]], [0, 39], [False, True])[1], logits[1])


def test_slots_keep_to_the_memory_that_is_allowed(tmp_path):
    save_file(Gpt2(GPT2).state_dict(), tmp_path / WEIGHTS)
    write_onnx_gpt2(tmp_path, GPT2, "fp32")
    per_slot = 2 * 2 * 192 * 96 * 4
    assert OnnxGpt2Backend(tmp_path / FP32, GPT2, kv_bytes=5 * per_slot).slots == 5
    with pytest.raises(StoreError, match=f"{per_slot:,}"):
        OnnxGpt2Backend(tmp_path / FP32, GPT2, kv_bytes=per_slot - 1)


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(StoreError, match="pip install"):
        open_session(tmp_path / "any.onnx", 1)


@pytest.mark.parametrize("place", ["../secret", "{folder}/secret"])
def test_a_graph_cannot_read_weights_outside_of_its_folder(tmp_path, place):
    (tmp_path / "secret").write_bytes(bytes(16))
    (tmp_path / "bundle").mkdir()
    weight = onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=onnx.TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=place.format(folder=tmp_path))
    node = onnx.helper.make_node("Identity", ["w"], ["y"])
    output = onnx.helper.make_tensor_value_info("y", 1, [4])
    graph = onnx.helper.make_graph([node], "hostile", [], [output], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    (tmp_path / "bundle" / "bad.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(StoreError, match=r"External data path|Absolute path"):
        open_session(tmp_path / "bundle" / "bad.onnx", 1)


def test_a_graph_that_is_none_is_refused(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(StoreError, match="cannot be run"):
        open_session(tmp_path / "bad.onnx", 1)
