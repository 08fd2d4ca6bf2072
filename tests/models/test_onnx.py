"""The ONNX variants compute what PyTorch does, and a row's bits do not depend on its neighbours."""

import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from contracts.bundle import FP32_GRAPH, INT8_GRAPH, WEIGHTS
from contracts.errors import StoreError
from models.gpt2 import Gpt2, Gpt2Config
from models.runtimes.onnx import OnnxGpt2Backend, open_session
from models.runtimes.pytorch import Gpt2Backend

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from export.onnx_gpt2 import write_onnx_gpt2

VOCABULARY = 211
CONFIG = Gpt2Config(VOCABULARY, context_tokens=192, width=96, layers=2, heads=4)
STEPS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx")
    with torch.random.fork_rng():
        torch.manual_seed(8)
        model = Gpt2(CONFIG)
        for weight in model.parameters():
            weight.data *= 4  # peaked enough that a wrong operation shows
    save_file(model.state_dict(), path / WEIGHTS)
    write_onnx_gpt2(path, CONFIG)
    return path


@pytest.fixture(scope="module")
def reference(folder):
    model = Gpt2(CONFIG)
    model.load_state_dict(load_file(folder / WEIGHTS))
    return Gpt2Backend(model.eval().requires_grad_(False), torch.device("cpu"))


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


@pytest.mark.parametrize(("graph", "tolerance"), [(FP32_GRAPH, 1e-5), (INT8_GRAPH, 0.1)])
def test_logits_are_those_of_pytorch(folder, reference, read_prompts, generator, graph, tolerance):
    texts = _texts(generator, [5, 192, 33, 70])
    expected = _logits(reference, read_prompts, texts)
    found = _logits(OnnxGpt2Backend(folder / graph, CONFIG), read_prompts, texts)
    assert (found - expected).square().mean().sqrt() < tolerance * expected.std()


def test_greedy_text_is_that_of_pytorch(folder, reference, greedy, generator):
    prompts = dict(enumerate(_texts(generator, [3, 40, 64, 100])))
    assert greedy(OnnxGpt2Backend(folder / FP32_GRAPH, CONFIG), prompts, 30) == greedy(reference, prompts, 30)


@pytest.mark.parametrize("graph", [FP32_GRAPH, INT8_GRAPH])
@pytest.mark.parametrize("tokens", [7, 75])
def test_logits_do_not_depend_on_bucket_slot_and_neighbours(folder, read_prompts, generator, threads, graph, tokens):
    backend = OnnxGpt2Backend(folder / graph, CONFIG)
    (text,) = _texts(generator, [tokens])
    alone = _logits(backend, read_prompts, [text])[:, 0]
    for rows in (2, 4, 8, 16, 32, 64):
        for slot in (0, rows // 2, rows - 1):
            texts = _texts(generator, torch.randint(STEPS, 150, (rows,), generator=generator).tolist())
            texts[slot] = text
            assert torch.equal(_logits(backend, read_prompts, texts)[:, slot], alone), f"{rows} rows, slot {slot}"


def test_slots_keep_to_the_memory_that_is_allowed(folder):
    per_slot = 2 * 2 * 192 * 96 * 4
    assert OnnxGpt2Backend(folder / FP32_GRAPH, CONFIG, kv_bytes=5 * per_slot).slots == 5
    assert OnnxGpt2Backend(folder / FP32_GRAPH, CONFIG, kv_bytes=1).slots == 1


def test_a_missing_library_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(StoreError, match="pip install"):
        open_session(folder / FP32_GRAPH, 1)


def test_a_graph_that_is_none_is_refused(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(StoreError, match="cannot be run"):
        open_session(tmp_path / "bad.onnx", 1)
